//! Conformance checks of client tokens and platform events in a store.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::access::{AccessToken, RefusalReason, RefusedParty, Role, TokenInput, TokenTerms, step};
use hodei_core::decision::{Aggregate, AggregateId, Decision};
use hodei_core::event::{Actor, DomainEvent, Envelope};
use hodei_core::id::{EventId, TokenId};
use hodei_core::job::TenantId;
use hodei_core::port::{FeedCursor, Store};
use hodei_core::time::Timestamp;
use hodei_core::worker::SecretHash;

use super::world::{Maker, command, feed};

/// A [`Store`] returns the states and the lists of tokens.
pub(super) async fn tokens_round_trip(maker: &Maker, store: &dyn Store) {
    let now = Timestamp::from_micros(7);
    let create = |role, life| {
        let terms = TokenTerms { name: format!("a \"{role}\""), tenant: TenantId::new("t"), role };
        let hash = SecretHash::from_bytes([role as u8; 32]);
        let id = TokenId::from_uuid(maker.uuid());
        step(None, TokenInput::Create { id, terms, hash, life }, now).expect("a new one")
    };
    let (first, second) = (create(Role::Viewer, None), create(Role::Admin, Some(Duration::from_secs(9))));
    maker.store(store, &first).await;
    maker.store(store, &second).await;
    let ids = [token(&second).id(), TokenId::from_uuid(maker.uuid()), token(&first).id()];
    let found = store.tokens(&ids).await.expect("a read");
    assert_eq!(found, [Some(token(&second)), None, Some(token(&first))], "in the order of the request");
    let revoke = step(Some(&token(&first)), TokenInput::Revoke, now).expect("a change");
    maker.store(store, &revoke).await;
    let listed = store.list_tokens().await.expect("a read");
    let mut expected = [token(&revoke), token(&second)];
    expected.sort_by_key(|token| token.id());
    assert_eq!(listed, expected, "ordered by id, revoked tokens included");
    let history = store.history(AggregateId::Token(token(&first).id())).await.expect("a read");
    let names: Vec<_> = history.iter().map(|envelope| envelope.event.name()).collect();
    assert_eq!(names, ["TokenCreated", "TokenRevoked"]);
}

/// A [`Store`] forgets an ended token together with other old aggregates, and its history with it.
pub(super) async fn ended_tokens_are_forgotten(maker: &Maker, store: &dyn Store) {
    let made = Timestamp::from_micros(7);
    let at = |seconds| made + Duration::from_secs(seconds);
    let create = |life: Option<u64>| {
        let terms = TokenTerms { name: "a".into(), tenant: TenantId::new("t"), role: Role::Viewer };
        let (id, hash) = (TokenId::from_uuid(maker.uuid()), SecretHash::from_bytes([1; 32]));
        let life = life.map(Duration::from_secs);
        step(None, TokenInput::Create { id, terms, hash, life }, made).expect("a new one")
    };
    let revoke =
        |created, seconds| step(Some(&token(created)), TokenInput::Revoke, at(seconds)).expect("a change");
    let [kept, expired, revoked] = [create(None), create(Some(9)), create(None)];
    let [early, late] = [create(Some(90)), create(Some(9))];
    for created in [&kept, &expired, &revoked, &early, &late] {
        maker.store(store, created).await;
    }
    for (created, seconds) in [(&revoked, 9), (&early, 9), (&late, 90)] {
        maker.store(store, &revoke(created, seconds)).await;
    }
    let all = [&kept, &expired, &revoked, &early, &late].map(|created| token(created).id());
    store.forget(&[], at(9)).await.expect("an end");
    assert!(
        store.tokens(&all).await.expect("a read").iter().all(Option::is_some),
        "none is forgotten too early"
    );
    store.forget(&[], at(10)).await.expect("an end");
    assert_eq!(store.tokens(&all).await.expect("a read"), [Some(token(&kept)), None, None, None, None]);
    let [kept, expired, ..] = all;
    assert_eq!(store.history(AggregateId::Token(expired)).await.expect("a read"), []);
    assert_eq!(store.history(AggregateId::Token(kept)).await.expect("a read").len(), 1);
}

/// A [`Store`] keeps events that belong to no transition until they are old.
pub(super) async fn events_of_the_platform_are_kept_until_they_are_old(maker: &Maker, store: &dyn Store) {
    let platform = AggregateId::Platform(store.id());
    let refused = |micros, times| {
        let service = "x".to_owned();
        let event = DomainEvent::AccessRefused {
            party: RefusedParty::Stranger { service },
            reason: RefusalReason::UnknownToken,
            times,
        };
        let (id, at) = (EventId::from_uuid(maker.uuid()), Timestamp::from_micros(micros));
        Envelope::hint(id, at, platform, Actor::Platform, event)
    };
    store.record(&[]).await.expect("nothing to do");
    let events = [refused(5, 1), refused(6, 2), refused(7, 3)];
    store.record(&events).await.expect("a write");
    let kept = store.history(platform).await.expect("a read");
    let shown = |kept: &[Envelope]| kept.iter().map(|event| (event.id, event.at)).collect::<Vec<_>>();
    assert_eq!(shown(&kept), shown(&events));
    assert!(kept.is_sorted_by_key(|event| event.sequence) && kept[0].sequence > 0);
    maker.store(store, &maker.submit("t", command())).await;
    assert_eq!(
        feed(store, &FeedCursor::default(), 5).await.events.len(),
        5,
        "they are in the feed, in order"
    );
    store.forget(&[], Timestamp::from_micros(7)).await.expect("a write");
    let kept = store.history(platform).await.expect("a read");
    assert_eq!(shown(&kept), shown(&events[2..]), "the old ones are forgotten");
}

fn token(decision: &Decision) -> Arc<AccessToken> {
    match &decision.next {
        Aggregate::Token(token) => token.clone(),
        other => panic!("{other:?} is not a token"),
    }
}
