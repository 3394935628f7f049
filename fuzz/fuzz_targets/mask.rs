//! However output is cut, no form of a secret is in what is shown of it, and what is no secret is shown whole.
#![no_main]
#![allow(dead_code, reason = "only what masks is used here")]

#[path = "."]
mod secrets {
    #[path = "../../hodei-agent/src/executor/secrets/encoded.rs"]
    pub(crate) mod encoded;
    #[path = "../../hodei-agent/src/executor/secrets/look.rs"]
    pub(crate) mod look;
    #[path = "../../hodei-agent/src/executor/secrets/mask.rs"]
    pub(crate) mod mask;
    #[path = "../../hodei-agent/src/executor/secrets/needles.rs"]
    pub(crate) mod needles;
    #[path = "../../hodei-agent/src/executor/secrets/quoting.rs"]
    pub(crate) mod quoting;
}

use std::sync::Arc;

use bytes::BytesMut;
use hodei_core::secret::SecretValue;
use libfuzzer_sys::fuzz_target;
use secrets::mask::Mask;
use secrets::needles::Needles;

fuzz_target!(|input: (&[u8], Vec<u8>, Vec<u8>)| {
    let (secret, output, cuts) = input;
    let Ok(value) = SecretValue::new(secret.iter().copied().take(64).collect()) else { return };
    let mut text = output.clone();
    let place = cuts.first().map_or(0, |cut| usize::from(*cut) % (text.len() + 1));
    text.splice(place..place, value.expose().iter().copied());
    let needles = Arc::new(Needles::of([&value]));
    let (mut whole, mut shown) = (BytesMut::new(), BytesMut::new());
    let mut mask = Mask::new(needles.clone());
    mask.push(&text, &mut whole);
    mask.finish(&mut whole);
    let (mut mask, mut left) = (Mask::new(needles), &text[..]);
    for cut in cuts {
        let (piece, rest) = left.split_at(usize::from(cut).min(left.len()));
        mask.push(piece, &mut shown);
        left = rest;
    }
    mask.push(left, &mut shown);
    mask.finish(&mut shown);
    assert_eq!(whole, shown, "it depends on where it is cut");
    // What is made of stars is what masks are made of.
    if !value.expose().contains(&b'*') {
        let length = value.expose().len();
        assert!(!shown.windows(length).any(|part| part == value.expose()), "it is shown");
    }
});
