//! The styles in which programs write a value, each decoded byte by byte from output.
//!
//! No form is derived from a value in advance: output is decoded and compared with the value step by step, at any depth
//! of quoting. This takes no memory, and no style needs a list of its variants.

/// A style of writing bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Unchanged.
    Plain,
    /// With quotes, backslashes, or numbers behind a backslash: shells (`bash -x`, `printf %q`, `declare -p`), JSON
    /// within JSON, Python, C, Go, Ruby, SQL, `cat -v`.
    Escaped,
    /// `%2F` as in URLs and forms, once or repeatedly.
    Percent,
    /// `&lt;` and `&#60;` as in HTML and XML.
    Entity,
    /// `=3D` as in mail.
    Printable,
    /// Two hexadecimal digits per byte, with the separators of dumps.
    Hex,
}

impl Style {
    pub(super) const ALL: [Style; 6] =
        [Self::Plain, Self::Escaped, Self::Percent, Self::Entity, Self::Printable, Self::Hex];
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Returns whether the style may change this value.
    pub(super) fn changes(self, value: &[u8]) -> bool {
        match self {
            Self::Plain | Self::Escaped | Self::Percent | Self::Hex => true,
            Self::Entity => value.iter().any(|byte| is_entity(*byte)),
            // Mail breaks long lines.
            Self::Printable => value.len() > 40 || value.iter().any(|byte| is_equals(*byte)),
        }
    }

    /// Returns the bytes that output may start with for a value that starts with `byte`.
    pub(super) fn beginnings(self, byte: u8) -> Vec<u8> {
        let digits =
            |high: u8| [HEX_DIGITS[usize::from(high)], HEX_DIGITS[usize::from(high)].to_ascii_uppercase()];
        match self {
            Self::Plain => vec![byte],
            Self::Escaped if byte < 0x20 => vec![byte, b'\\', b'^'],
            Self::Escaped => vec![byte, b'\\'],
            Self::Percent if byte == b' ' => vec![byte, b'%', b'+'],
            Self::Percent => vec![byte, b'%'],
            Self::Entity if is_entity(byte) => vec![byte, b'&'],
            Self::Printable if is_equals(byte) => vec![byte, b'='],
            Self::Entity | Self::Printable => vec![byte],
            Self::Hex => digits(byte >> 4).to_vec(),
        }
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

fn is_entity(byte: u8) -> bool {
    matches!(byte, b'&' | b'<' | b'>' | b'"' | b'\'' | 0x80..)
}

fn is_equals(byte: u8) -> bool {
    matches!(byte, b'=' | 0..=0x20 | 0x7f..)
}

/// The result of comparing the start of output with the rest of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// This many bytes of output stand for this many bytes of the value.
    Took(usize, usize),
    /// This many bytes of output belong to the style and stand for no byte of the value.
    Skip(usize),
    /// Output ends too early to tell.
    Cut,
    /// They differ.
    No,
}

/// The result of comparing output with a whole value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// The value, written in this many bytes.
    Found(usize),
    /// The start of the value, as far as output goes.
    MayBe,
    No,
}

/// Maximum number of consecutive bytes of a style that stand for no byte of the value: six levels of JSON have 63
/// backslashes.
const MAX_NOISE_BYTES: usize = 64;

/// Compares the start of output with a value. Subtracts the steps from `budget`.
pub(super) fn walk(style: Style, text: &[u8], value: &[u8], budget: &mut usize) -> Walk {
    if style == Style::Plain {
        return plain(text, value, budget);
    }
    let (mut at, mut known, mut noise) = (0, 0, 0);
    while let Some(want) = value.get(known..).filter(|want| !want.is_empty()) {
        *budget = budget.saturating_sub(1);
        let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) else { return Walk::MayBe };
        if *budget == 0 {
            return Walk::No;
        }
        match style.step(rest, want, known == 0) {
            Step::Took(bytes, of_value) => (at, known, noise) = (at + bytes, known + of_value, 0),
            Step::Skip(bytes) if known > 0 && noise < MAX_NOISE_BYTES => {
                (at, noise) = (at + bytes, noise + bytes)
            }
            Step::Cut => return Walk::MayBe,
            Step::Skip(_) | Step::No => return Walk::No,
        }
    }
    Walk::Found(at)
}

/// Number of bytes that are compared first, which nearly always suffice to rule a value out.
const FIRST_COMPARED_BYTES: usize = 16;

fn plain(text: &[u8], value: &[u8], budget: &mut usize) -> Walk {
    let common = value.len().min(text.len());
    let short = common.min(FIRST_COMPARED_BYTES);
    let is_near = value[..short] == text[..short];
    *budget = budget.saturating_sub(if is_near { common } else { 1 });
    match () {
        () if *budget == 0 || !is_near || value[..common] != text[..common] => Walk::No,
        () if common == value.len() => Walk::Found(common),
        () => Walk::MayBe,
    }
}

impl Style {
    /// Takes one step of a walk. Neither `text` nor `want` is empty.
    fn step(self, text: &[u8], want: &[u8], is_first: bool) -> Step {
        match self {
            Self::Plain if text[0] == want[0] => Step::Took(1, 1),
            Self::Plain => Step::No,
            Self::Escaped => escaped(text, want),
            Self::Percent => percent(text, want),
            Self::Entity => entity(text, want),
            Self::Printable => printable(text, want),
            Self::Hex => hex(text, want, is_first),
        }
    }

    /// Returns the possible first bytes of a value that `text` may start with; superfluous ones are harmless. Also
    /// returns whether output ends too early to tell.
    pub(super) fn heads(self, text: &[u8]) -> ([Option<u8>; 3], bool) {
        let literal = text.first().copied();
        let number = match self {
            Self::Plain => None,
            Self::Hex => return ([pair(text), None, None], text.len() < 2),
            Self::Escaped if literal == Some(b'\\') => Some(backslash(&text[1..])),
            Self::Escaped if text == b"^" => Some(Number::Cut),
            Self::Escaped => caret(text).map(|number| Number::Is(number, 2)),
            Self::Percent if literal == Some(b'%') => Some(percented(text)),
            Self::Percent if literal == Some(b'+') => return ([literal, Some(b' '), None], false),
            Self::Printable if literal == Some(b'=') => Some(equals(text)),
            Self::Entity if literal == Some(b'&') => Some(ampersand(text)),
            Self::Percent | Self::Printable | Self::Entity => None,
        };
        match number {
            Some(Number::Is(number, _)) => {
                let byte = u8::try_from(number).ok();
                ([literal, byte, char::from_u32(number).map(first_byte)], false)
            }
            Some(Number::Cut) => ([literal, None, None], true),
            Some(Number::No) | None => ([literal, None, None], false),
        }
    }
}

fn first_byte(character: char) -> u8 {
    let mut buffer = [0; 4];
    character.encode_utf8(&mut buffer).as_bytes()[0]
}

/// A number in output that stands for a byte or a character, with its length.
#[derive(Debug, Clone, Copy)]
enum Number {
    Is(u32, usize),
    Cut,
    No,
}

impl Number {
    /// Returns the step for `before` bytes followed by this number.
    fn step(self, before: usize, want: &[u8]) -> Step {
        match self {
            Self::Is(number, length) => {
                stands_for(number, want).map_or(Step::No, |of_value| Step::Took(before + length, of_value))
            }
            Self::Cut => Step::Cut,
            Self::No => Step::No,
        }
    }
}

/// Returns how many bytes of the value a number stands for, as a byte or as a character.
fn stands_for(number: u32, want: &[u8]) -> Option<usize> {
    if u8::try_from(number).is_ok_and(|byte| byte == want[0]) {
        return Some(1);
    }
    let mut buffer = [0; 4];
    let character = char::from_u32(number)?.encode_utf8(&mut buffer).as_bytes();
    want.starts_with(character).then_some(character.len())
}

fn escaped(text: &[u8], want: &[u8]) -> Step {
    match text[0] {
        b'\\' if want.iter().all(|byte| *byte == b'\\') => last_backslashes(text, want.len()),
        b'\\' => match backslash(&text[1..]).step(1, want) {
            Step::No if want[0] == b'\\' => Step::Took(1, 1),
            // A line continuation.
            Step::No if text.get(1) == Some(&b'\n') && want[0] != b'\n' => Step::Skip(2),
            Step::No => Step::Skip(1),
            step => step,
        },
        b'\'' if want == b"'" => last_quote(text),
        byte if byte == want[0] => Step::Took(1, 1),
        b'^' if want[0] < 0x20 && text.len() == 1 => Step::Cut,
        b'^' => caret(text).map_or(Step::No, |number| Number::Is(number, 2).step(0, want)),
        b'\'' | b'"' | b'$' | b'`' => Step::Skip(1),
        _ => Step::No,
    }
}

/// Compares the backslashes at the end of a value. Each may be escaped to two, four or more, and backslashes that
/// escape a following quote may come after them.
fn last_backslashes(text: &[u8], own: usize) -> Step {
    let run = text.iter().take(MAX_NOISE_BYTES).take_while(|byte| **byte == b'\\').count();
    match run / own {
        _ if run == text.len() => Step::Cut,
        0 => Step::No,
        times => Step::Took(own << times.ilog2(), own),
    }
}

/// Compares a quote at the end of a value. A shell closes its quoting, writes the quote, and opens it again.
fn last_quote(text: &[u8]) -> Step {
    for written in [br#"'"'"'"#.as_slice(), br"'\''"] {
        if text.starts_with(written) {
            return Step::Took(written.len(), 1);
        }
        if written.starts_with(text) {
            return Step::Cut;
        }
    }
    Step::Took(1, 1)
}

/// Decodes caret notation: `cat -v` writes a tab as `^I`.
fn caret(text: &[u8]) -> Option<u32> {
    match text {
        [b'^', letter @ b'@'..=b'_', ..] => Some(u32::from(letter ^ 0x40)),
        _ => None,
    }
}

/// Decodes an escape sequence behind its backslash. A backslash may also stand for the next character as it is, which
/// this does not cover.
fn backslash(text: &[u8]) -> Number {
    let Some((letter, rest)) = text.split_first() else { return Number::Cut };
    let is = |byte: u8| Number::Is(u32::from(byte), 1);
    match letter {
        b'n' => is(b'\n'),
        b'r' => is(b'\r'),
        b't' => is(b'\t'),
        b'a' => is(7),
        b'b' => is(8),
        b'v' => is(11),
        b'f' => is(12),
        b'e' | b'E' => is(27),
        b'0'..=b'7' => digits(text, 8, 1, 3),
        b'x' => longer(braced(rest, 1, 2)),
        b'u' => match longer(braced(rest, 4, 4)) {
            Number::Is(high @ 0xd800..=0xdbff, length) => surrogates(high, length, text),
            number => number,
        },
        b'U' => longer(digits(rest, 16, 8, 8)),
        _ => Number::No,
    }
}

/// Adds the letter before a number to its length.
fn longer(number: Number) -> Number {
    match number {
        Number::Is(number, length) => Number::Is(number, length + 1),
        other => other,
    }
}

/// Decodes hexadecimal digits: in braces, or from `least` to `most`.
fn braced(text: &[u8], least: usize, most: usize) -> Number {
    if text.first() != Some(&b'{') {
        return digits(text, 16, least, most);
    }
    match digits(&text[1..], 16, 1, 8) {
        Number::Is(number, length) => match text.get(length + 1) {
            Some(b'}') => Number::Is(number, length + 2),
            Some(_) => Number::No,
            None => Number::Cut,
        },
        other => other,
    }
}

/// Decodes a surrogate pair, as JSON writes characters beyond the basic plane.
fn surrogates(high: u32, length: usize, text: &[u8]) -> Number {
    let rest = &text[length..];
    let slashes = rest.iter().take(MAX_NOISE_BYTES).take_while(|byte| **byte == b'\\').count();
    let Some((letter, digits_of_low)) = rest[slashes..].split_first() else { return Number::Cut };
    if slashes == 0 || *letter != b'u' {
        return Number::No;
    }
    match digits(digits_of_low, 16, 4, 4) {
        Number::Is(low @ 0xdc00..=0xdfff, more) => {
            let number = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            Number::Is(number, length + slashes + 1 + more)
        }
        Number::Cut => Number::Cut,
        _ => Number::No,
    }
}

/// Decodes from `least` to `most` digits, as many as there are.
fn digits(text: &[u8], radix: u32, least: usize, most: usize) -> Number {
    let (mut number, mut length) = (0_u32, 0);
    for byte in text.iter().take(most) {
        let Some(digit) = char::from(*byte).to_digit(radix) else { break };
        (number, length) = (number.wrapping_mul(radix) | digit, length + 1);
    }
    match length {
        _ if length < most && length == text.len() => Number::Cut,
        _ if length < least => Number::No,
        // Three octal digits may exceed a byte.
        _ => Number::Is(number, length),
    }
}

fn percent(text: &[u8], want: &[u8]) -> Step {
    match text[0] {
        b'%' if want[0] == b'%' => percent_of_percent(text, want),
        b'%' => match percented(text) {
            Number::Is(number, length) if number != u32::from(want[0]) && is_quote(number) => {
                Step::Skip(length)
            }
            number => number.step(0, want),
        },
        b'+' if want[0] == b' ' => Step::Took(1, 1),
        byte if byte == want[0] => Step::Took(1, 1),
        _ => Step::No,
    }
}

/// Compares `%` in the value with `%25`, `%2525` and deeper encodings. A `25` that the value itself has behind its `%`
/// is not part of the encoding.
fn percent_of_percent(text: &[u8], want: &[u8]) -> Step {
    let depth = |bytes: &[u8]| bytes[1..].chunks(2).take_while(|pair| *pair == b"25").count();
    let (there, own) = (depth(text), depth(want));
    match text.get(1 + 2 * there..) {
        None | Some([] | [b'2']) => Step::Cut,
        Some(_) if there > own => Step::Took(1 + 2 * (there - own), 1),
        Some(_) => Step::No,
    }
}

/// Returns whether a character is an inner quote that was added before the URL encoding.
fn is_quote(number: u32) -> bool {
    [b'\\', b'\'', b'"'].map(u32::from).contains(&number)
}

/// Decodes `%41`, or `%2541` and deeper.
fn percented(text: &[u8]) -> Number {
    let mut at = 1;
    while text[at..].starts_with(b"25") && text.get(at + 2).is_none_or(u8::is_ascii_hexdigit) {
        if text.len() < at + 4 {
            return Number::Cut;
        }
        if !text[at + 3].is_ascii_hexdigit() {
            break;
        }
        at += 2;
    }
    match digits(&text[at..], 16, 2, 2) {
        Number::Is(number, length) => Number::Is(number, at + length),
        other => other,
    }
}

fn printable(text: &[u8], want: &[u8]) -> Step {
    match text {
        [b'=', b'\n', ..] => Step::Skip(2),
        [b'=', b'\r', b'\n', ..] => Step::Skip(3),
        [b'=', ..] => equals(text).step(0, want),
        [byte, ..] if *byte == want[0] => Step::Took(1, 1),
        _ => Step::No,
    }
}

fn equals(text: &[u8]) -> Number {
    match digits(&text[1..], 16, 2, 2) {
        Number::Is(number, length) => Number::Is(number, length + 1),
        // A soft line break may follow.
        _ if matches!(text, [b'=', b'\r']) => Number::Cut,
        other => other,
    }
}

fn entity(text: &[u8], want: &[u8]) -> Step {
    match text[0] {
        b'&' if want[0] == b'&' => match amp_of_amp(text, want) {
            Step::No => ampersand(text).step(0, want),
            step => step,
        },
        b'&' => ampersand(text).step(0, want),
        byte if byte == want[0] => Step::Took(1, 1),
        _ => Step::No,
    }
}

/// Like [`percent_of_percent`], for `&amp;`.
fn amp_of_amp(text: &[u8], want: &[u8]) -> Step {
    const AMP: &[u8] = b"amp;";
    let depth = |bytes: &[u8]| bytes[1..].chunks(AMP.len()).take_while(|part| *part == AMP).count();
    let (there, own) = (depth(text), depth(want));
    match text.get(1 + AMP.len() * there..) {
        Some(rest) if !AMP.starts_with(rest) && there > own => Step::Took(1 + AMP.len() * (there - own), 1),
        Some(rest) if !AMP.starts_with(rest) => Step::No,
        _ => Step::Cut,
    }
}

/// Decodes `&lt;`, `&#60;` or `&#x3c;`, also with the `&` encoded as `&amp;`.
fn ampersand(text: &[u8]) -> Number {
    /// The entities of both HTML and XML.
    const NAMES: [(&[u8], u8); 5] =
        [(b"amp;", b'&'), (b"lt;", b'<'), (b"gt;", b'>'), (b"quot;", b'"'), (b"apos;", b'\'')];
    let mut at = 1;
    // `&amp;lt;` is `&lt;` encoded again.
    while let Some(deeper) = text[at..].strip_prefix(b"amp;") {
        if NAMES.iter().any(|(name, _)| name.starts_with(deeper)) {
            return Number::Cut;
        }
        if !deeper.starts_with(b"#") && !NAMES.iter().any(|(name, _)| deeper.starts_with(name)) {
            break;
        }
        at += 4;
    }
    let rest = &text[at..];
    if let Some(code) = rest.strip_prefix(b"#") {
        let (code, radix, before) = match code.split_first() {
            Some((b'x' | b'X', code)) => (code, 16, 2),
            _ => (code, 10, 1),
        };
        return match entity_number(code, radix) {
            Number::Is(number, length) => Number::Is(number, at + before + length),
            other => other,
        };
    }
    for (name, byte) in NAMES {
        if rest.starts_with(name) {
            return Number::Is(u32::from(byte), at + name.len());
        }
        if name.starts_with(rest) {
            return Number::Cut;
        }
    }
    Number::No
}

/// Decodes digits up to the semicolon. The length includes the semicolon.
fn entity_number(text: &[u8], radix: u32) -> Number {
    let (mut number, mut length) = (0_u32, 0);
    for byte in text.iter().take(8) {
        length += 1;
        match char::from(*byte).to_digit(radix) {
            Some(digit) => number = number.wrapping_mul(radix).wrapping_add(digit),
            None if *byte == b';' && length > 1 => return Number::Is(number, length),
            None => return Number::No,
        }
    }
    if length == text.len() { Number::Cut } else { Number::No }
}

fn pair(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

fn hex(text: &[u8], want: &[u8], is_first: bool) -> Step {
    match text {
        [b'0', b'x' | b'X', ..] if !is_first => Step::Skip(2),
        [digit] if digit.is_ascii_hexdigit() => Step::Cut,
        _ if pair(text) == Some(want[0]) => Step::Took(2, 1),
        [b'\\' | b'x' | b'X' | b'%' | b' ' | b',' | b':' | b'-' | b'\n' | b'\r' | b'\t', ..] if !is_first => {
            Step::Skip(1)
        }
        _ => Step::No,
    }
}
