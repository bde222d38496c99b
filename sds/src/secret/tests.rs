use std::time::Duration;

use certs::{Clock, KeyKind, ManualClock, Profile, certificates_from_pem};
use proto::envoy::service::discovery::v3::DiscoveryResponse;
use spiffe::{Purpose, SpiffeId, SvidIssuer, SvidRequest, fake::FakeIssuer};

use super::*;

const VERSION_KEY: [u8; 32] = [7; 32];

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_unix_secs(1_800_000_000)))
}

/// What a proxy would decode.
fn sent(resource: &Resource) -> Secret {
    let response = DiscoveryResponse::decode(resource.sotw_field().clone()).unwrap();
    Secret::decode(&*response.resources[0].value).unwrap()
}

fn bytes(source: Option<DataSource>) -> Vec<u8> {
    match source.unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        _ => panic!("not inline"),
    }
}

async fn leaf(issuer: &FakeIssuer) -> (Chain, SecretKey) {
    let key = SecretKey::generate(KeyKind::P256);
    let request = SvidRequest {
        id: SpiffeId::parse("spiffe://td/web").unwrap(),
        profile: Profile::Workload,
        public_key: key.public().clone(),
        lifetime: Duration::from_secs(3600),
        dns_names: vec![],
        ip_addresses: vec![],
        tenant: Default::default(),
        node: None,
        issuer: None,
        purpose: Purpose::Delivery,
        deadline: None,
        spend: None,
        request_id: spiffe::RequestId::random(),
    };
    (issuer.issue(request).await.unwrap().chain, key)
}

#[tokio::test]
async fn a_key_goes_out_as_pkcs8_under_the_name_that_was_asked() {
    let (chain, key) = leaf(&FakeIssuer::new("td", clock())).await;
    let der = key.expose_secret().to_vec();
    let expected_chain = chain.to_pem();
    let material = Material::encode(&chain, key);
    for name in ["default", "spiffe://td/web", "spiffe://td/web?g=3"] {
        let resource = material.to_resource(&name.into(), &VERSION_KEY);
        let secret = sent(&resource);
        assert_eq!((resource.name().as_ref(), secret.name.as_str()), (name, name));
        let Some(secret::Type::TlsCertificate(certificate)) = secret.r#type else {
            panic!("not a certificate")
        };
        assert_eq!(bytes(certificate.certificate_chain), expected_chain.as_bytes());
        let pem = String::from_utf8(bytes(certificate.private_key)).unwrap();
        let (first, last) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
        let lines: Vec<&str> = pem.lines().collect();
        assert_eq!((lines.first(), lines.last()), (Some(&first), Some(&last)));
        assert!(lines.iter().all(|line| line.len() <= 64));
        assert_eq!(STANDARD.decode(lines[1..lines.len() - 1].concat()).unwrap(), der);
    }
}

#[tokio::test]
async fn versions_of_secrets_are_keyed_and_debug_shows_no_key() {
    let (chain, key) = leaf(&FakeIssuer::new("td", clock())).await;
    let pem = private_key_pem("PRIVATE KEY", key.expose_secret());
    let material = Material::encode(&chain, key);
    let name: Arc<str> = "default".into();
    let one = material.to_resource(&name, &VERSION_KEY);
    assert_eq!(one.version(), material.to_resource(&name, &VERSION_KEY).version());
    assert_ne!(one.version(), material.to_resource(&name, &[8; 32]).version());
    let shown = format!("{one:?}");
    let secret_line = std::str::from_utf8(&pem).unwrap().lines().nth(1).unwrap();
    assert!(!shown.contains(secret_line) && !shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn contexts_hold_the_valid_roots_and_have_the_same_bytes_each_time() {
    let clock = clock();
    let issuer = FakeIssuer::new("td", clock.clone());
    let trust = issuer.trust();
    let name: Arc<str> = "spiffe://td".into();
    let resource = context(&name, trust.own(), None, clock.now()).unwrap();
    assert_eq!(resource.version(), context(&name, trust.own(), None, clock.now()).unwrap().version());
    let Some(secret::Type::ValidationContext(sent)) = sent(&resource).r#type else { panic!("not a context") };
    let roots = certificates_from_pem(&bytes(sent.trusted_ca)).unwrap();
    assert_eq!(roots, [trust.own().authorities()[0].der().to_vec()]);
}

#[test]
fn contexts_carry_every_list_and_have_leaves_alone_checked() {
    let clock = clock();
    let issuer = FakeIssuer::new("td", clock.clone());
    let life = Duration::from_secs(3600);
    let one = issuer.list(1, &[], life);
    issuer.replace_authority();
    let lists = RevocationLists::new(vec![one, issuer.list(7, &[], life)]);
    let name: Arc<str> = "spiffe://td".into();
    let read = |lists| {
        let resource = context(&name, issuer.trust().own(), lists, clock.now()).unwrap();
        match sent(&resource).r#type {
            Some(secret::Type::ValidationContext(sent)) => (resource, sent),
            other => panic!("not a context: {other:?}"),
        }
    };
    let (with, sent_with) = read(Some(&lists));
    assert!(sent_with.only_verify_leaf_cert_crl);
    let pem = String::from_utf8(bytes(sent_with.crl)).unwrap();
    assert_eq!(pem.matches("-----BEGIN X509 CRL-----").count(), 2);
    let (without, sent_without) = read(None);
    assert!(sent_without.crl.is_none() && !sent_without.only_verify_leaf_cert_crl);
    assert_ne!(with.version(), without.version());
}

#[test]
fn no_context_is_made_of_expired_roots() {
    let clock = clock();
    let trust = FakeIssuer::new("td", clock.clone()).trust();
    clock.advance(Duration::from_secs(2 * 366 * 86_400));
    assert!(context(&"ROOTCA".into(), trust.own(), None, clock.now()).is_none());
    assert!(all_bundles(&"ALL".into(), &trust, clock.now()).is_none());
}

#[test]
fn all_bundles_stay_apart_by_trust_domain() {
    let clock = clock();
    let trust = FakeIssuer::new("td", clock.clone()).trust();
    let resource = all_bundles(&"ALL".into(), &trust, clock.now()).unwrap();
    let Some(secret::Type::ValidationContext(sent)) = sent(&resource).r#type else { panic!("not a context") };
    let custom = sent.custom_validator_config.unwrap();
    assert_eq!(custom.name, "envoy.tls.cert_validator.spiffe");
    let any = custom.typed_config.unwrap();
    assert_eq!(
        any.type_url,
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
    );
    let config = SpiffeCertValidatorConfig::decode(&*any.value).unwrap();
    assert_eq!(config.trust_domains.len(), 1);
    assert_eq!(config.trust_domains[0].name, "td");
}
