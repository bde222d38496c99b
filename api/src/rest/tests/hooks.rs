//! Hooks, for operators.

use super::*;

#[tokio::test]
async fn hooks_are_listed_and_tested_and_each_test_is_audited() {
    let world = world().await;
    let listed = world.get("/api/v1/hooks").await;
    assert_eq!(listed.body["items"][0]["name"], "page", "{:?}", listed.body);
    let test = |name: &str| request("POST", &format!("/api/v1/hooks/{name}/test"), "application/json", "");
    let answer = world.send(test("page")).await;
    assert_eq!((answer.status, &answer.body["taken"]), (StatusCode::OK, &json!(true)));
    let answer = world.send(test("broken")).await;
    assert_eq!((answer.status, &answer.body["taken"]), (StatusCode::OK, &json!(false)));
    world.refuses(test("busy"), 409, "conflict").await;
    world.refuses(test("none"), 404, "not-found").await;
    let tested = world.store.events().into_iter().filter(|event| event.action == Action::HookTest);
    let rows: Vec<_> = tested.map(|event| (event.object, event.outcome, event.reason)).collect();
    let expected = [
        ("page", audit::Outcome::Done, ""),
        ("broken", audit::Outcome::Done, ""),
        ("broken", audit::Outcome::Failed, "answered 500"),
        ("busy", audit::Outcome::Done, ""),
        ("busy", audit::Outcome::Failed, "hook busy is being told something, ask again"),
    ];
    assert_eq!(rows, expected.map(|(name, outcome, why)| (name.to_owned(), outcome, why.to_owned())));
}
