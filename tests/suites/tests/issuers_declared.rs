//! The section `issuers` of the configuration against what the store holds, with a real Pebble: equal, it starts;
//! differing, it is refused before a door opens, and each way out that the refusal names leads to a start.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::fs;

use kit::{Challenges, Pebble, PebbleOptions, TestWorld, WorldOptions};

/// Where Pebble has its terms.
const TERMS: &str = "data:text/plain,Do%20what%20thou%20wilt";

/// Writes the section, or takes it out.
fn declare(world: &TestWorld, section: &str) {
    let path = world.sandbox().path("credence.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let before = text.split("issuers:").next().unwrap();
    fs::write(path, format!("{}\n{section}", before.trim_end())).unwrap();
}

/// A start that is refused: what it says.
async fn refused(world: &TestWorld, words: &[&str]) -> String {
    let (code, out, errors) = world.run(&["serve", "--dev", "--config", "credence.yaml"]).await;
    assert_eq!(code, 2, "{out} {errors}");
    for word in words {
        assert!(errors.contains(word), "{word:?} is not in {errors}");
    }
    assert!(!out.contains("listening") && !errors.contains("listening"), "a door was open: {out} {errors}");
    assert!(
        errors.contains("without the section issuers nothing is compared and the server starts"),
        "{errors}"
    );
    errors
}

async fn starts(world: &mut TestWorld) {
    world.start().await;
    world.read_operator();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_with_exactly_the_issuers_that_its_configuration_says() {
    let challenges = Challenges::start().await;
    let profiles = ["classic", "short"].map(|name| (name.to_owned(), std::time::Duration::from_secs(86_400)));
    let options = PebbleOptions { profiles: profiles.to_vec(), ..PebbleOptions::default() };
    let Some(pebble) = Pebble::start(&options, &challenges).await else { return };
    let mut world = TestWorld::boot("issuers-declared", WorldOptions::default()).await;
    let section = |profile: &str| {
        format!(
            "issuers:\n  - name: le\n    acme:\n      directory: {}\n      ca_file: {}\n      contacts: \
             [\"mailto:ops@example.com\"]\n      agree_terms: \"{TERMS}\"\n      profile: {profile}\n",
            pebble.directory(),
            pebble.ca_file().display(),
        )
    };

    // In the file alone: the command that it names adds exactly that.
    world.terminate().await;
    declare(&world, &section("classic"));
    let errors = refused(&world, &["issuer le is not in the store", ", issuers[0])"]).await;
    assert!(errors.contains("credence.yaml:"), "at its place: {errors}");
    follow(&mut world, &errors, "credence issuer add acme le").await;
    declare(&world, &section("classic"));
    starts(&mut world).await;
    assert!(world.sandbox().tail("serve").contains("the store holds the issuers of the configuration"));
    world.terminate().await;

    // Other settings: it is removed and added.
    declare(&world, &section("short"));
    let words = ["issuer le is another in the store: acme.profile is \"short\" here and \"classic\" there"];
    let errors = refused(&world, &words).await;
    follow(&mut world, &errors, "credence issuer remove le && credence issuer add acme le").await;
    declare(&world, &section("short"));
    starts(&mut world).await;
    world.terminate().await;

    // In the store alone: what may be written instead is equal, and the command leaves none.
    declare(&world, "issuers: []\n");
    let errors = refused(&world, &["the store holds issuer le, which does not stand here"]).await;
    let item = errors.lines().find_map(|line| line.trim().strip_prefix("or write in the section: ")).unwrap();
    declare(&world, &format!("issuers:\n  {item}\n"));
    starts(&mut world).await;
    world.terminate().await;
    follow(&mut world, &errors, "credence issuer remove le").await;
    declare(&world, "issuers: []\n");
    starts(&mut world).await;
    world.finish().await;
}

/// Takes the section out, starts, runs what a refusal named, and ends again.
async fn follow(world: &mut TestWorld, errors: &str, begin: &str) {
    let line = errors.lines().find_map(|line| line.strip_prefix("credence: hint: "));
    let line = line.filter(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}: {errors}"));
    declare(world, "");
    starts(world).await;
    for command in line.split(" && ") {
        let mut words: Vec<&str> = command.split(' ').skip(1).collect();
        if words.contains(&"remove") {
            words.push("--yes"); // A person is asked.
        }
        let (code, out, errors) = world.run(&words).await;
        assert_eq!(code, 0, "{command}: {out} {errors}");
    }
    world.terminate().await;
}
