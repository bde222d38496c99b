use serde_json::json;
use zeroize::Zeroizing;

use super::*;
use crate::{Name, Reply, judge};

const SIGN: &str = "pki/issuer/1c3f/sign/svid";

fn policy() -> Policy {
    let name = |text| Name::parse(text).unwrap();
    Policy::leaves(&Mount::parse("pki").unwrap(), [&name("1c3f")], &name("svid"), "td")
}

/// As Vault 1.21 answers for a token with `default` and the printed policy.
fn narrow() -> Value {
    json!({
        "root": false,
        "exact_paths": {
            "auth/token/lookup-self": { "capabilities": ["read"] },
            "auth/token/renew-self": { "capabilities": ["update"] },
            "sys/internal/ui/resultant-acl": { "capabilities": ["read"] },
            "identity/entity/id/5e2f": { "capabilities": ["read"] },
            "pki/roles/svid": { "capabilities": ["read"] },
            SIGN: {
                "capabilities": ["update"],
                "allowed_parameters": { "csr": [], "uri_sans": ["spiffe://td/*"], "ttl": [], "format": ["pem"] },
                "required_parameters": ["csr", "uri_sans"],
            },
        },
        "glob_paths": {
            "cubbyhole/": { "capabilities": ["create", "read", "update", "delete", "list"] },
            "sys/tools/hash/": { "capabilities": ["update"] },
        },
    })
}

#[test]
fn the_printed_policy_is_narrow() {
    assert_eq!(judge_acl(&narrow(), &policy(), None), Ok(Breadth::Narrow { missing: Vec::new() }));
    let mut less = narrow();
    less["exact_paths"].as_object_mut().unwrap().remove("pki/roles/svid");
    let missing = vec!["pki/roles/svid".to_owned()];
    assert_eq!(judge_acl(&less, &policy(), None), Ok(Breadth::Narrow { missing }));
}

#[test]
fn the_same_role_under_another_issuer_of_the_mount_is_no_surplus_and_nothing_beside_that() {
    let like = |path: &str, change: &dyn Fn(&mut Value)| {
        let mut acl = narrow();
        let mut grants = acl["exact_paths"][SIGN].clone();
        change(&mut grants);
        acl["exact_paths"][path] = grants;
        judge_acl(&acl, &policy(), None).unwrap()
    };
    let other = "pki/issuer/5e1d/sign/svid";
    assert_eq!(like(other, &|_| {}), Breadth::Narrow { missing: Vec::new() });
    let is_wide = |breadth: Breadth, path: &str| matches!(breadth, Breadth::Wide(surplus) if surplus.iter().all(|one| one.path == path));
    for path in [
        "pki/issuer/default/sign/svid",
        "pki/issuer/5e1d/sign/other",
        "pki/issuer/5e1d/x/sign/svid",
        "pki/issuer//sign/svid",
        "pki2/issuer/5e1d/sign/svid",
        "pki/issuer/5e1d/sign-verbatim/svid",
    ] {
        assert!(is_wide(like(path, &|_| {}), path), "{path}");
    }
    let free = |grants: &mut Value| grants["allowed_parameters"] = json!({ "*": [] });
    assert!(is_wide(like(other, &free), other));
    let more = |grants: &mut Value| grants["capabilities"] = json!(["update", "sudo"]);
    assert!(is_wide(like(other, &more), other));
    // It is no replacement for the one that signs.
    let mut moved = narrow();
    let paths = moved["exact_paths"].as_object_mut().unwrap();
    let grants = paths.remove(SIGN).unwrap();
    paths.insert(other.to_owned(), grants);
    let missing = vec![SIGN.to_owned()];
    assert_eq!(judge_acl(&moved, &policy(), None), Ok(Breadth::Narrow { missing }));
}

#[test]
fn each_surplus_is_found_and_named() {
    let check = |change: &dyn Fn(&mut Value), path: &str, what: &str| {
        let mut acl = narrow();
        change(&mut acl);
        let surplus = vec![Surplus { path: path.to_owned(), what: what.to_owned() }];
        assert_eq!(judge_acl(&acl, &policy(), None), Ok(Breadth::Wide(surplus)));
    };
    let exact =
        |path: &'static str, grants: Value| move |acl: &mut Value| acl["exact_paths"][path] = grants.clone();
    let glob =
        |path: &'static str, grants: Value| move |acl: &mut Value| acl["glob_paths"][path] = grants.clone();
    let update = || json!({ "capabilities": ["update"] });
    check(&|acl| *acl = json!({ "root": true }), "*", "root");
    check(&exact("pki/sign-verbatim", update()), "pki/sign-verbatim", "update");
    check(
        &exact("pki/roles/svid", json!({ "capabilities": ["read", "update"] })),
        "pki/roles/svid",
        "update",
    );
    check(&exact("identity/entity/id/5e2f", update()), "identity/entity/id/5e2f", "update");
    check(&exact("identity/entity/id/5e2f/x", update()), "identity/entity/id/5e2f/x", "update");
    check(&glob("secret/", json!({ "capabilities": ["read", "list"] })), "secret/*", "read, list");
    check(&glob("", json!({ "capabilities": ["sudo"] })), "*", "sudo");
    check(&glob("pki/issuer/+/sign/svid", update()), "pki/issuer/+/sign/svid", "update");
    check(&exact(SIGN, update()), SIGN, "any parameter, such as not_after");
    let sign = |member: &'static str, value: Value| {
        move |acl: &mut Value| acl["exact_paths"][SIGN][member] = value.clone()
    };
    let all = json!({ "*": [] });
    check(&sign("allowed_parameters", all), SIGN, "parameter *");
    let dated = json!({ "csr": [], "not_after": [] });
    check(&sign("allowed_parameters", dated), SIGN, "parameter not_after");
    for values in [json!([]), json!(["spiffe://td/*", "spiffe://other/*"]), Value::Null] {
        let other = json!({ "csr": [], "uri_sans": values });
        let words = "parameter uri_sans with other values than [\"spiffe://td/*\"]";
        check(&sign("allowed_parameters", other), SIGN, words);
    }
    let words = "without the required parameter uri_sans";
    check(&sign("required_parameters", json!(["csr"])), SIGN, words);
    check(&sign("required_parameters", Value::Null), SIGN, "without the required parameter csr");
}

#[test]
fn what_is_denied_is_no_surplus() {
    let mut acl = narrow();
    acl["exact_paths"]["sys/seal"] = json!({ "capabilities": ["deny"] });
    acl["glob_paths"]["secret/"] = json!({ "capabilities": ["deny"] });
    assert_eq!(judge_acl(&acl, &policy(), None), Ok(Breadth::Narrow { missing: Vec::new() }));
}

/// As Vault Enterprise answers in a namespace (`pc.Path = result.namespace.Path + pc.Path`).
fn within(namespace: &str, acl: &Value) -> Value {
    let before = |member: &str| -> serde_json::Map<String, Value> {
        let paths = acl[member].as_object().unwrap();
        paths.iter().map(|(path, grants)| (format!("{namespace}/{path}"), grants.clone())).collect()
    };
    json!({ "root": false, "exact_paths": before("exact_paths"), "glob_paths": before("glob_paths") })
}

#[test]
fn in_a_namespace_every_path_has_it_before_it_and_what_has_not_is_a_surplus() {
    let namespace = Mount::parse("teams/mesh").unwrap();
    let judge = |acl: &Value| judge_acl(acl, &policy(), Some(&namespace)).unwrap();
    let inside = within("teams/mesh", &narrow());
    assert_eq!(judge(&inside), Breadth::Narrow { missing: Vec::new() });
    let mut less = inside.clone();
    less["exact_paths"].as_object_mut().unwrap().remove("teams/mesh/pki/roles/svid");
    assert_eq!(judge(&less), Breadth::Narrow { missing: vec!["pki/roles/svid".to_owned()] });
    let update = || json!({ "capabilities": ["update"] });
    let check = |member: &str, path: &str, named: &str| {
        let mut acl = inside.clone();
        acl[member][path] = update();
        let Breadth::Wide(surplus) = judge(&acl) else { panic!("{path} is a surplus") };
        assert_eq!(surplus.iter().map(ToString::to_string).collect::<Vec<_>>(), [named]);
    };
    check("exact_paths", "teams/mesh/sys/seal", "teams/mesh/sys/seal (update)");
    // What would do inside of it is of no use elsewhere.
    check("exact_paths", "auth/token/lookup-self", "auth/token/lookup-self (update)");
    check(
        "exact_paths",
        "teams/meshes/auth/token/lookup-self",
        "teams/meshes/auth/token/lookup-self (update)",
    );
    check("glob_paths", "cubbyhole/", "cubbyhole/* (update)");
    check("glob_paths", "teams/mesh/", "teams/mesh/* (update)");
    check("glob_paths", "teams/", "teams/* (update)");
    // And without a namespace nothing has one before it.
    assert!(matches!(judge_acl(&inside, &policy(), None), Ok(Breadth::Wide(_))));
}

#[test]
fn what_vault_names_is_bounded() {
    let mut acl = narrow();
    for number in 0..100 {
        let path = format!("{number:03}\n{}", "p".repeat(5000));
        acl["exact_paths"][path] = json!({ "capabilities": ["c".repeat(5000), "d".repeat(5000)] });
    }
    let Ok(Breadth::Wide(surplus)) = judge_acl(&acl, &policy(), None) else { panic!("wide") };
    assert_eq!(surplus.len(), MAX_NAMED + 1);
    assert_eq!(surplus[MAX_NAMED].to_string(), "and 84 more");
    for one in &surplus[..MAX_NAMED] {
        assert_eq!((one.path.len(), one.what.len()), (MAX_TEXT, MAX_TEXT));
        assert!(!one.path.contains('\n'));
    }
}

#[test]
fn an_unknown_shape_is_not_provable() {
    for acl in [
        Value::Null,
        json!([]),
        json!({}),
        json!({ "exact_paths": {}, "glob_paths": {} }),
        json!({ "exact_paths": ["a"] }),
        json!({ "exact_paths": { "a": "read" } }),
        json!({ "exact_paths": { "a": { "capabilities": "read" } } }),
        json!({ "exact_paths": { "a": { "capabilities": ["read"] } }, "segment_paths": {} }),
        json!({ "exact_paths": { "auth/token/lookup-self": {} } }),
        json!({ "exact_paths": { "auth/token/lookup-self": { "capabilities": null } } }),
        json!({ "exact_paths": { "auth/token/lookup-self": { "capabilities": [] } } }),
        json!({ "glob_paths": { "cubbyhole/": { "capabilities": [] } } }),
    ] {
        assert_eq!(judge_acl(&acl, &policy(), None), Err(UNKNOWN_SHAPE.to_owned()), "{acl}");
    }
}

#[test]
fn probes_find_wildcards_and_prove_nothing_else() {
    let mount = Mount::parse("pki").unwrap();
    let asked = probes(&policy(), &[&mount]);
    let mut distinct = asked.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), asked.len());
    let answers = |open: &[(&str, &str)]| {
        let one = |path: &String| {
            let found = open.iter().find(|(open, _)| open == path);
            (path.clone(), json!([found.map_or("deny", |(_, capability)| *capability)]))
        };
        let data: serde_json::Map<String, Value> = asked.iter().map(one).collect();
        let body = Zeroizing::new(json!({ "data": data }).to_string().into_bytes());
        let answer = judge(Reply { status: 200, location: None, retry_after: None, body }).unwrap();
        judge_probes(&answer, &asked, &policy(), "forbidden").unwrap()
    };
    let own = [(SIGN, "update"), ("pki/roles/svid", "read")];
    let expected =
        |missing| Breadth::NotProvable { why: "forbidden".to_owned(), probed: asked.len(), missing };
    assert_eq!(answers(&own), expected(Vec::new()));
    assert_eq!(answers(&own[..1]), expected(vec!["pki/roles/svid".to_owned()]));
    let wide = answers(&[own[0], own[1], ("pki/sign-verbatim", "update"), ("sys/seal", "sudo")]);
    let Breadth::Wide(surplus) = wide else { panic!("{wide:?}") };
    let named: Vec<String> = surplus.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["pki/sign-verbatim (update)", "sys/seal (sudo)"]);
}
