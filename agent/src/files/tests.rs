use std::time::Duration;

use super::*;
use crate::testing::{DAY, NOW, TestAuthority, reopen};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn every_file(directory: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        visit(&path);
        if path.is_dir() && !path.is_symlink() {
            every_file(&path, visit);
        }
    }
}

#[test]
fn nothing_is_open_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/state");
    let state = StateDir::open(&root).unwrap();
    let authority = TestAuthority::new("td", NOW);
    state.joining_key("0011").unwrap();
    let credentials = authority.credentials("/credence/node/web-1", NOW, DAY);
    state
        .join(&authority.membership("web-1", "localhost:18000"), &credentials, EnvoyOptions::default())
        .unwrap();
    assert_eq!(mode(&root), 0o700);
    every_file(&root, &mut |path| {
        assert_eq!(mode(path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    });
    let (membership, loaded) = state.load().unwrap();
    assert_eq!(membership, authority.membership("web-1", "localhost:18000"));
    assert_eq!((loaded.chain, loaded.key.public()), (credentials.chain, credentials.key.public()));
}

#[test]
fn closes_only_a_directory_that_nobody_else_can_miss() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, mode: u32| {
        let root = folder.path().join(name);
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(mode)).unwrap();
        root
    };
    let count = |root: &Path| fs::read_dir(root).unwrap().count();
    let (shared, sticky) = (made("shared", 0o755), made("sticky", 0o1777));
    fs::write(shared.join("hosts"), "").unwrap();
    // What is called like ours is not ours yet.
    fs::write(shared.join(NODE), "{}").unwrap();
    for root in [&shared, &sticky] {
        let before = (mode(root), count(root));
        let error = StateDir::open(root).unwrap_err();
        assert!(matches!(&error, StateError::Shared(path) if path == root), "{error}");
        assert!(error.hint().unwrap().contains(&format!("chmod go= {}", root.display())));
        assert_eq!((mode(root), count(root)), before);
    }
    let empty = made("empty", 0o755);
    let state = StateDir::open(&empty).unwrap();
    assert_eq!(mode(&empty), 0o700);
    let authority = TestAuthority::new("td", NOW);
    let credentials = authority.credentials("/credence/node/web-1", NOW, DAY);
    let membership = authority.membership("web-1", "localhost:18000");
    state.join(&membership, &credentials, EnvoyOptions::default()).unwrap();
    drop(state);
    // As a volume that is opened to its group by each mount.
    fs::set_permissions(&empty, Permissions::from_mode(0o770)).unwrap();
    drop(StateDir::open_joined(&empty).unwrap());
    assert_eq!(mode(&empty), 0o700);
}

#[test]
fn looks_for_a_node_and_makes_nothing_where_none_has_joined() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for root in [folder.path(), &folder.path().join("new")] {
        let error = StateDir::open_joined(root).unwrap_err();
        assert!(matches!(&error, StateError::NotJoined(path) if path == root), "{error}");
    }
    assert_eq!((mode(folder.path()), fs::read_dir(folder.path()).unwrap().count()), (0o755, 0));
}

#[test]
fn a_reader_never_sees_a_key_beside_another_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let authority = TestAuthority::new("td", NOW);
    let next = || authority.credentials("/credence/node/web-1", NOW, DAY);
    state.join(&authority.membership("web-1", "localhost:18000"), &next(), EnvoyOptions::default()).unwrap();
    for round in 2..6 {
        // A reader that has opened the directory of the version before can finish.
        let before = fs::canonicalize(&state.secret_paths().chain).unwrap();
        let held = next();
        state.install(&held).unwrap();
        assert!(before.exists(), "round {round}");
        assert_eq!(state.load().unwrap().1.chain, held.chain);
        assert_eq!(versions(&state.secret_paths().watched).unwrap().len(), 2, "round {round}");
    }
}

#[test]
fn a_version_that_cannot_be_put_in_place_leaves_no_key_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (state, ..) = joined(folder.path());
    let held = state.load().unwrap().1.chain;
    let files = || {
        let mut found = Vec::new();
        every_file(folder.path(), &mut |path| found.push(path.to_owned()));
        found.sort();
        found
    };
    let blocked = folder.path().join(".current.new");
    fs::create_dir(&blocked).unwrap();
    let before = files();
    let next = TestAuthority::new("td", NOW).credentials("/credence/node/web-1", NOW, DAY);
    assert!(matches!(state.install(&next), Err(StateError::Io { .. })));
    assert_eq!((files(), state.load().unwrap().1.chain), (before, held));

    fs::remove_dir(&blocked).unwrap();
    state.install(&next).unwrap();
    assert_eq!(state.load().unwrap().1.chain, next.chain);
}

/// Else the next one would be asked for while Envoy has this one, and each try would leave one more behind.
#[test]
fn a_version_is_in_place_though_an_older_one_cannot_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (state, ..) = joined(folder.path());
    let certs = folder.path().join(CERTS);
    // No directory, so that it is not removed as one.
    fs::write(certs.join("0000000000"), "").unwrap();
    let authority = TestAuthority::new("td", NOW);
    for _ in 0..3 {
        let next = authority.credentials("/credence/node/web-1", NOW, DAY);
        state.install(&next).unwrap();
        assert_eq!(state.load().unwrap().1.chain, next.chain);
    }
    let left = versions(&certs).unwrap();
    assert_eq!(left.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 3, 4], "the others are gone");
}

#[test]
fn refuses_files_that_do_not_belong_together() {
    let check = |spoil: &dyn Fn(&SecretPaths, &Path)| {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let authority = TestAuthority::new("td", NOW);
        let credentials = authority.credentials("/credence/node/web-1", NOW, DAY);
        let membership = authority.membership("web-1", "localhost:18000");
        state.join(&membership, &credentials, EnvoyOptions::default()).unwrap();
        spoil(&state.secret_paths(), folder.path());
        let error = state.load().unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
        assert!(error.hint().unwrap().contains("join again"));
    };
    let other = || TestAuthority::new("td", NOW).credentials("/credence/node/web-2", NOW, DAY);
    check(&|paths, _| fs::write(&paths.key, key_pem(&other().key).as_bytes()).unwrap());
    check(&|paths, _| fs::write(&paths.key, "x").unwrap());
    check(&|paths, _| fs::write(&paths.chain, "x").unwrap());
    check(&|paths, _| fs::write(&paths.bundle, "x").unwrap());
    check(&|paths, _| fs::write(&paths.bundle, vec![b'x'; 2 << 20]).unwrap());
    check(&|_, root| fs::write(root.join(NODE), "{}").unwrap());
    check(&|paths, _| {
        let other = other();
        fs::write(&paths.chain, other.chain.to_pem()).unwrap();
        fs::write(&paths.key, key_pem(&other.key).as_bytes()).unwrap();
    });
}

#[test]
fn one_agent_has_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    assert!(matches!(StateDir::open(folder.path()), Err(StateError::InUse(_))));
    assert!(matches!(state.load(), Err(StateError::NotJoined(_))));
    drop(state);
    reopen(folder.path());
}

#[test]
fn the_same_token_finds_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let (first, origin) = state.joining_key("0011").unwrap();
    assert_eq!(origin, KeyOrigin::New);
    let (again, origin) = state.joining_key("0011").unwrap();
    assert_eq!((origin, again.public()), (KeyOrigin::EarlierTry, first.public()));
    assert_ne!(state.joining_key("0022").unwrap().0.public(), first.public());
    state.forget_joining_keys().unwrap();
    assert_eq!(state.joining_key("0011").unwrap().1, KeyOrigin::New);
}

#[test]
fn a_key_that_could_not_be_written_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let joining = folder.path().join(JOINING);
    // As a full disk left it before.
    fs::write(joining.join("0011.pem"), "").unwrap();
    let (key, origin) = state.joining_key("0011").unwrap();
    assert_eq!(origin, KeyOrigin::New);
    assert_eq!(state.joining_key("0011").unwrap().0.public(), key.public());

    // A key that cannot be written whole is not there at all.
    let blocked = joining.join("0022.pem.next");
    fs::create_dir(&blocked).unwrap();
    assert!(matches!(state.joining_key("0022"), Err(StateError::Io { .. })));
    assert!(!joining.join("0022.pem").exists());
    fs::remove_dir(&blocked).unwrap();
    assert_eq!(state.joining_key("0022").unwrap().1, KeyOrigin::New);
    assert_eq!(mode(&joining.join("0022.pem")), 0o600);
}

#[test]
fn says_what_to_do_about_a_full_disk() {
    let hint = |kind: io::ErrorKind| failed("write", Path::new("/state/x"))(kind.into()).hint();
    for full in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert!(hint(full).is_some_and(|hint| hint.contains("/state/x is full")), "{full}");
    }
    assert_eq!(hint(io::ErrorKind::PermissionDenied), None);
}

/// A node that has joined, with another port of Envoy's admin interface than any.
fn joined(folder: &Path) -> (StateDir, Membership, EnvoyOptions) {
    let state = StateDir::open(folder).unwrap();
    let authority = TestAuthority::new("td", NOW);
    let membership = authority.membership("web-1", "localhost:18000");
    let options = EnvoyOptions { admin_port: Some(9901), ..EnvoyOptions::default() };
    state.join(&membership, &authority.credentials("/credence/node/web-1", NOW, DAY), options).unwrap();
    (state, membership, options)
}

#[test]
fn what_envoy_is_started_with_is_made_again_from_what_the_node_learned() {
    let folder = tempfile::tempdir().unwrap();
    let (state, membership, options) = joined(folder.path());
    let files = state.envoy_files(&membership, options);
    assert_eq!(files.restore().unwrap(), [] as [PathBuf; 0], "nothing is gone");

    let paths = [state.secret_paths().node_secret, state.secret_paths().bundle_secret, state.envoy_config()];
    let read = || paths.each_ref().map(|path| fs::read_to_string(path).unwrap());
    let before = read();
    fs::remove_file(&paths[0]).unwrap();
    fs::write(&paths[1], "").unwrap();
    fs::remove_file(&paths[2]).unwrap();
    assert_eq!(files.restore().unwrap(), paths);
    assert_eq!(read(), before);
    assert!(paths.iter().all(|path| mode(path) == 0o600));

    fs::write(&paths[2], "{ \"changed\": true }").unwrap();
    assert_eq!(files.restore().unwrap(), [] as [PathBuf; 0], "an operator's own words stay");
}

#[test]
fn a_server_that_moved_changes_its_address_alone_and_nothing_that_is_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (state, membership, options) = joined(folder.path());
    let moved =
        Membership { xds_server: ServerAddress::parse("new.example:18000").unwrap(), ..membership.clone() };
    let (node, envoy) = (folder.path().join(NODE), state.envoy_config());
    let read = |path: &Path| fs::read_to_string(path).unwrap();

    let before = read(&node);
    for foreign in ["{ \"changed\": true }", "{", "[]"] {
        fs::write(&envoy, foreign).unwrap();
        let refused = state.envoy_files(&moved, EnvoyOptions::default()).relocate();
        assert!(matches!(&refused, Err(StateError::Damaged { path, .. }) if *path == envoy), "{refused:?}");
        assert_eq!((read(&envoy).as_str(), read(&node)), (foreign, before.clone()));
    }
    fs::remove_file(&envoy).unwrap();
    state.envoy_files(&membership, options).restore().unwrap();
    assert!(state.envoy_files(&moved, EnvoyOptions::default()).relocate().unwrap());
    assert!(!state.envoy_files(&moved, EnvoyOptions::default()).relocate().unwrap(), "once");
    let text = read(&envoy);
    assert!(text.contains("new.example") && text.contains("9901") && !text.contains("localhost"), "{text}");
    assert!(read(&node).contains("new.example"));
}

#[test]
fn a_port_of_the_admin_page_that_is_chosen_later_changes_that_alone_and_nothing_that_is_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (state, membership, _) = joined(folder.path());
    let envoy = state.envoy_config();
    let read = || fs::read_to_string(&envoy).unwrap();
    let moved = |admin_port| {
        state
            .envoy_files(&membership, EnvoyOptions { admin_port, ..EnvoyOptions::default() })
            .move_admin_page()
    };
    let before = read();
    assert!(!moved(None).unwrap() && !moved(Some(9901)).unwrap());
    assert_eq!(read(), before, "nobody chose another");
    assert!(moved(Some(19_000)).unwrap());
    assert_eq!(read(), before.replace("9901", "19000"));
    for foreign in ["{ \"admin\": { \"address\": { \"pipe\": { \"path\": \"/x\" } } } }", "{", "[]"] {
        fs::write(&envoy, foreign).unwrap();
        let refused = moved(Some(9901));
        assert!(matches!(&refused, Err(StateError::Damaged { path, .. }) if *path == envoy), "{refused:?}");
        assert_eq!(read(), foreign);
        assert!(!moved(None).unwrap());
    }
}

#[test]
fn life_is_counted_from_issue() {
    let credentials =
        TestAuthority::new("td", NOW).credentials("/credence/node/web-1", NOW, Duration::from_secs(12));
    for later in [0, 5] {
        let life = credentials.life(NOW + Duration::from_secs(later));
        assert_eq!((life.issued, life.length()), (NOW, Duration::from_secs(12)));
    }
}

/// An authority that began a moment ago cuts off how far its leaves are backdated, so that their issue seems to be later
/// than it was: at the end of a short life, when it was taken for the time to renew.
#[test]
fn issue_of_a_leaf_that_is_in_hand_is_never_in_the_future() {
    let issued = NOW + Duration::from_secs(40);
    let credentials =
        TestAuthority::new("td", NOW).credentials("/credence/node/web-1", issued, Duration::from_secs(12));
    let life = credentials.life(NOW + Duration::from_secs(2));
    assert_eq!(life.issued, NOW + Duration::from_secs(2));
    assert!(life.renew_at(sds::schedule::Jitter::FULL) < life.expires);
}

#[test]
fn a_private_file_is_replaced_whole_and_closed_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operator.key");
    fs::write(&path, "open to others").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let key = SecretKey::generate(KeyKind::P256);
    write_private_key(&path, &key).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(read_private_key(&path).unwrap().public(), key.public());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(write_private(&folder.path().join("no/such"), b"x").is_err());
}
