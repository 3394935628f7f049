//! Conformance suites for secret providers, and checks of secrets in a store.

use std::sync::Arc;

use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::job::TenantId;
use hodei_core::port::{CommitError, Fence, SecretError, SecretProvider, Store};
use hodei_core::secret::{Secret, SecretInput, SecretName, SecretValue, secret_id, step};
use hodei_core::time::Timestamp;

use super::world::Maker;

/// Checks the contract of a writable [`SecretProvider`]. `make` returns a fresh, empty one.
///
/// # Panics
/// When it breaks the contract.
pub async fn secret_provider<P: SecretProvider>(make: impl AsyncFn() -> Arc<P>) {
    let provider = make().await;
    let (tenant, other) = (TenantId::new("one"), TenantId::new("two"));
    let (a, b) = (name("a"), name("b"));
    assert_eq!(listed(&*provider, &tenant).await, Vec::<String>::new());
    provider.put(&tenant, &b, value("first b")).await.expect("a put");
    provider.put(&tenant, &a, value("value a")).await.expect("a put");
    provider.put(&tenant, &b, value("second b")).await.expect("a put in the place of another");
    assert_eq!(listed(&*provider, &tenant).await, ["a", "b"], "by name");
    let wanted = [b.clone(), name("c"), a.clone()];
    let found = provider.secrets(&tenant, &wanted).await.expect("a read");
    assert_eq!(found, [Some(value("second b")), None, Some(value("value a"))], "in the order of the request");
    assert_eq!(provider.known(&tenant, &wanted).await.expect("a read"), [true, false, true]);
    assert_eq!(provider.secrets(&other, &wanted).await.expect("a read"), [None, None, None]);
    assert_eq!(listed(&*provider, &other).await, Vec::<String>::new(), "a tenant has its own");
    assert!(!provider.delete(&other, &a).await.expect("a delete"));
    provider.put(&other, &a, value("another a")).await.expect("a put");
    assert!(provider.delete(&tenant, &a).await.expect("a delete"));
    assert!(!provider.delete(&tenant, &a).await.expect("a delete"), "it is gone already");
    assert_eq!(provider.known(&tenant, &wanted).await.expect("a read"), [true, false, false]);
    let found = provider.secrets(&other, std::slice::from_ref(&a)).await.expect("a read");
    assert_eq!(found, [Some(value("another a"))], "the other tenant keeps its own");
    provider.put(&tenant, &a, value("a again")).await.expect("a put after a delete");
    let binary = SecretValue::new((0..=255).cycle().take(SecretValue::LONGEST).collect()).expect("a value");
    provider.put(&tenant, &b, binary.clone()).await.expect("a put of the largest");
    let found = provider.secrets(&tenant, &[a, b]).await.expect("a read");
    assert_eq!(found, [Some(value("a again")), Some(binary)], "bytes come back as they are");
}

/// Checks the contract of a read-only [`SecretProvider`] that has the value `kept` as `there` for `tenant`, and no
/// other secret.
///
/// # Panics
/// When it breaks the contract.
pub async fn secrets_of_others(provider: &dyn SecretProvider, tenant: &TenantId, there: &str, kept: &str) {
    let wanted = [name(there), name("missing")];
    assert_eq!(listed(provider, tenant).await, [there]);
    assert_eq!(provider.secrets(tenant, &wanted).await.expect("a read"), [Some(value(kept)), None]);
    assert_eq!(provider.known(tenant, &wanted).await.expect("a read"), [true, false]);
    let others = TenantId::new("other-tenant");
    assert_eq!(provider.secrets(&others, &wanted).await.expect("a read"), [None, None]);
    assert_eq!(provider.secrets(&TenantId::new("../x"), &wanted).await.expect("a read"), [None, None]);
    let put = provider.put(tenant, &wanted[0], value("other")).await;
    assert!(matches!(put, Err(SecretError::ReadOnly(_))), "{put:?}");
    let deleted = provider.delete(tenant, &wanted[0]).await;
    assert!(matches!(deleted, Err(SecretError::ReadOnly(_))), "{deleted:?}");
    assert_eq!(listed(provider, tenant).await, [there]);
}

/// A [`Store`] returns the states, versions and lists of secrets.
pub(super) async fn secrets_round_trip(maker: &Maker, store: &dyn Store) {
    let (tenant, name, now) = (TenantId::new("t"), name("db"), Timestamp::from_micros(7));
    let id = secret_id(&tenant, &name);
    assert_eq!(store.secrets(&[id]).await.expect("a read"), [None]);
    let put = SecretInput::Put("sealed \u{1} text".into());
    let mut current: Option<Arc<Secret>> = None;
    for input in [put.clone(), SecretInput::Put("another".into()), SecretInput::Delete, put.clone()] {
        let decision = step(current.as_deref(), &tenant, &name, input, now).expect("a change");
        maker.store(store, &decision).await;
        let Aggregate::Secret(next) = &decision.next else { panic!("not a secret") };
        assert_eq!(store.secrets(&[id]).await.expect("a read"), [Some(next.clone())]);
        let listed = store.list_secrets(&tenant).await.expect("a read");
        let shown: Vec<_> = listed.iter().map(|info| (&info.name, info.changed_at)).collect();
        let expected = next.sealed().map(|_| (&name, now));
        assert_eq!(shown, Vec::from_iter(expected), "deleted secrets are not listed");
        assert_eq!(store.list_secrets(&TenantId::new("u")).await.expect("a read"), []);
        current = Some(next.clone());
    }
    let stale = step(None, &tenant, &name, put, now).expect("a change");
    let outcomes = store.commit(Fence::None, &[maker.write(&stale)]).await.expect("a commit");
    assert_eq!(outcomes, [Err(CommitError::Conflict { actual: Some(4) })]);
    let history = store.history(AggregateId::Secret(id)).await.expect("a read");
    let names: Vec<_> = history.iter().map(|envelope| envelope.event.name()).collect();
    assert_eq!(names, ["SecretStored", "SecretStored", "SecretDeleted", "SecretStored"]);
}

fn name(text: &str) -> SecretName {
    text.parse().expect("a name")
}

fn value(text: &str) -> SecretValue {
    SecretValue::new(text.as_bytes().to_vec()).expect("a value")
}

async fn listed(provider: &dyn SecretProvider, tenant: &TenantId) -> Vec<String> {
    let listed = provider.list(tenant).await.expect("a list");
    listed.into_iter().map(|info| info.name.to_string()).collect()
}
