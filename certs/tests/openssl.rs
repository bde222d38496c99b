//! A second opinion: what Credence issues passes OpenSSL's strict verification.

use std::{path::Path, process::Command, time::Duration};

use credence_certs::{
    Certificate, KeyKind, Profile, SecretKey, Serial, SoftwareSigner, Template, Timestamp, Validity,
    certificates_to_pem, sign,
};

const NOW: Timestamp = Timestamp::from_unix_secs(1_790_000_000);

fn issue(profile: Profile, issuer: Option<(&Certificate, &SoftwareSigner)>) -> (Certificate, SoftwareSigner) {
    let key = SecretKey::generate(profile.key_kind());
    let signer = SoftwareSigner::try_new(&key).expect("a generated key signs");
    let above =
        issuer.map(|(above, _)| Validity { not_before: above.not_before(), not_after: above.not_after() });
    let template = Template {
        profile,
        serial: Serial::random(),
        validity: Validity::starting(NOW, profile.default_lifetime(), above),
        public_key: key.public().clone(),
        subject: profile.is_authority().then(|| ("Credence".to_owned(), format!("prod.example {profile:?}"))),
        uri: if profile.is_authority() { "spiffe://prod.example" } else { "spiffe://prod.example/web" }
            .to_owned(),
        dns_names: if profile == Profile::Server { vec!["localhost".to_owned()] } else { vec![] },
        ip_addresses: if profile == Profile::Server {
            vec!["127.0.0.1".parse().expect("an address")]
        } else {
            vec![]
        },
    };
    let certificate =
        sign(&template, issuer.map(|(above, _)| above), issuer.map_or(&signer, |(_, signer)| signer));
    (certificate.expect("a good template"), signer)
}

fn write(folder: &Path, name: &str, certificate: &Certificate) -> String {
    let path = folder.join(name);
    std::fs::write(&path, certificates_to_pem([certificate.der()])).expect("a writable folder");
    path.to_str().expect("a path of text").to_owned()
}

/// What OpenSSL says about `leaf` at `at`.
fn openssl(leaf: &str, untrusted: Option<&str>, root: &str, purpose: &str, at: Timestamp) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-check_ss_sig", "-attime", &at.unix_secs().to_string()]);
    command.args(["-CAfile", root, "-purpose", purpose]);
    if let Some(untrusted) = untrusted {
        command.args(["-untrusted", untrusted]);
    }
    let output = command.arg(leaf).output().expect("openssl runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn every_profile_passes_openssl_strict() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("NOT RUN: openssl is not on PATH");
        return;
    }
    let folder = std::env::temp_dir().join(format!("credence-openssl-{}", Serial::random()));
    std::fs::create_dir(&folder).expect("a fresh folder");
    let (root, root_signer) = issue(Profile::Root, None);
    let (issuing, signer) = issue(Profile::Issuing, Some((&root, &root_signer)));
    let root_file = write(&folder, "root.pem", &root);
    let issuing_file = write(&folder, "issuing.pem", &issuing);
    let check = |file: &str, untrusted: Option<&str>, purpose: &str, at: Timestamp, expected: bool| {
        let (fine, said) = openssl(file, untrusted, &root_file, purpose, at);
        assert_eq!(fine, expected, "{file} as {purpose}: {said}");
    };
    check(&root_file, None, "any", NOW, true);
    check(&issuing_file, None, "any", NOW, true);
    for profile in [Profile::Node, Profile::Workload, Profile::Server, Profile::Operator] {
        let (leaf, _) = issue(profile, Some((&issuing, &signer)));
        let file = write(&folder, &format!("{profile:?}.pem"), &leaf);
        for purpose in ["sslserver", "sslclient"] {
            check(&file, Some(&issuing_file), purpose, NOW, true);
            check(&file, Some(&issuing_file), purpose, leaf.not_after() + Duration::from_secs(2), false);
            check(&file, None, purpose, NOW, false);
        }
        check(&file, Some(&issuing_file), "smimesign", NOW, false);
    }
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn an_exported_key_opens_in_openssl_with_its_passphrase_and_with_no_other() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("NOT RUN: openssl is not on PATH");
        return;
    }
    let folder = std::env::temp_dir().join(format!("credence-export-{}", Serial::random()));
    std::fs::create_dir(&folder).expect("a folder of our own");
    let key = SecretKey::generate(KeyKind::P384);
    let file = folder.join("root.pem");
    std::fs::write(&file, key.to_encrypted_pem(b"correct horse battery staple")).expect("a writable folder");
    let open = |passphrase: &str| {
        let mut command = Command::new("openssl");
        command.args(["pkey", "-pubout", "-outform", "DER", "-passin", passphrase, "-in"]);
        command.arg(&file).output().expect("openssl runs")
    };
    let opened = open("pass:correct horse battery staple");
    assert_eq!(opened.stdout, key.public().spki_der(), "{}", String::from_utf8_lossy(&opened.stderr));
    assert!(!open("pass:another horse battery staple").status.success());
    std::fs::remove_dir_all(&folder).expect("a folder of our own");
}
