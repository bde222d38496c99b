//! What hooks were told, in the store.

use std::time::Duration;

use api::ports::{HookStore, Told};

use super::*;

#[tokio::test]
async fn what_a_hook_took_outlives_the_process_until_its_time_and_is_audited() {
    let world = World::new().await;
    let told = |hook: &str, id: &str, secs| Told {
        hook: hook.into(),
        id: id.into(),
        until: now() + Duration::from_secs(secs),
    };
    let remember = async |world: &World, told: Told, at: Timestamp| {
        let event = Event { at, ..event(Action::HookTell, &told.hook) };
        world.store.remember_told(told, event).await.unwrap();
    };
    remember(&world, told("page", "a", 10), now()).await;
    remember(&world, told("chat", "a", 100), now()).await;
    // The same again says when it ends anew.
    remember(&world, told("page", "a", 20), now()).await;
    let world = World::open(world.close().await).await;
    assert_eq!(world.store.told().await.unwrap(), [told("chat", "a", 100), told("page", "a", 20)]);
    remember(&world, told("page", "b", 100), now() + Duration::from_secs(20)).await;
    assert_eq!(world.store.told().await.unwrap(), [told("chat", "a", 100), told("page", "b", 100)]);
    world.close().await;
}
