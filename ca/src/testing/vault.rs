//! An issuer elsewhere that signs what it is told to sign, well or badly.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use certs::{Chain, Profile, SecretKey, Serial, Template, Timestamp, Validity};
use spiffe::{IssuerName, TrustDomain};

use crate::{
    LeafAsked, LeafSigner, Outsider, SignFailure,
    authority::{SigningAuthority, make_issuing, make_root},
    policy::{Lifetimes, Policy},
    ports::Source,
};

/// What it does with what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    /// Certifies a key of its own.
    WrongKey,
    /// Certifies another name.
    WrongName,
    /// Signs for an hour more than it was asked to.
    TooLong,
    /// Signs with another authority than the pinned one, under the same root.
    WrongSigner,
    /// Gives each leaf the same number.
    SameSerial,
    Sealed,
    Refuses,
    /// The answer is lost on the way.
    Lost,
    /// Never answers.
    Silent,
}

#[derive(Clone)]
pub(crate) struct FakeVault {
    outsider: Outsider,
    signer: Arc<SigningAuthority>,
    other: Arc<SigningAuthority>,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<AtomicUsize>,
    /// Who signs under its second root.
    second: Arc<Mutex<Option<Arc<SigningAuthority>>>>,
}

impl FakeVault {
    /// With a root of its own.
    pub(crate) fn new(name: &str, now: Timestamp) -> Self {
        let policy = Policy {
            trust_domain: TrustDomain::parse("td").unwrap(),
            lifetimes: Lifetimes::default(),
            max_connection: std::time::Duration::from_secs(3600),
            lists: None,
            dev: false,
        };
        let (root, root_key) = make_root(&policy, now).unwrap();
        let issuing = || {
            let (record, key) = make_issuing(&policy, &root, &root_key, now).unwrap();
            Arc::new(SigningAuthority::try_new(&record, &key).unwrap())
        };
        let (signer, other) = (issuing(), issuing());
        let outsider = Outsider {
            source: Source { name: IssuerName::parse(name).unwrap(), generation: 0 },
            role: "svid".to_owned(),
            anchor: root.certificate,
            signer: signer.certificate().clone(),
            earlier: Vec::new(),
            fallback: None,
        };
        let manner = Arc::new(Mutex::new(Manner::Good));
        Self { outsider, signer, other, manner, asked: Arc::default(), second: Arc::default() }
    }

    pub(crate) fn outsider(&self) -> &Outsider {
        &self.outsider
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Signs under the root of `next`, too, as its second.
    pub(crate) fn follow(&self, next: &Self) {
        *self.second.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&next.signer));
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl LeafSigner for FakeVault {
    async fn sign(&self, source: &Source, asked: LeafAsked) -> Result<Chain, SignFailure> {
        assert_eq!(source.name, self.outsider.source.name);
        self.asked.fetch_add(1, Ordering::SeqCst);
        let manner = *self.manner.lock().unwrap_or_else(PoisonError::into_inner);
        match manner {
            Manner::Sealed => return Err(SignFailure::Unavailable("Vault is sealed".to_owned())),
            Manner::Refuses => return Err(SignFailure::Refused("unknown role: svid".to_owned())),
            Manner::Lost => return Err(SignFailure::Unknown("no answer: reset".to_owned())),
            Manner::Silent => std::future::pending().await,
            _ => {}
        }
        let csr = certs::Csr::from_der(&asked.csr).unwrap();
        assert_eq!(csr.public_key().spki_der(), asked.key.spki_der());
        let mut template = Template {
            profile: Profile::Workload,
            serial: Serial::random(),
            validity: Validity::starting(asked.at, asked.lifetime, None),
            public_key: asked.key,
            subject: None,
            uri: asked.uri,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
        };
        let second = self.second.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut by = if source.generation == 0 { &self.signer } else { second.as_ref().unwrap() };
        match manner {
            Manner::WrongKey => {
                template.public_key = SecretKey::generate(Profile::Workload.key_kind()).public().clone();
            }
            Manner::WrongName => template.uri = "spiffe://td/credence/server".to_owned(),
            Manner::TooLong => {
                let longer = asked.lifetime + std::time::Duration::from_secs(3600);
                template.validity = Validity::starting(asked.at, longer, None);
            }
            Manner::WrongSigner => by = &self.other,
            Manner::SameSerial => template.serial = Serial::from_random([7; 20]),
            _ => {}
        }
        let rehearsal = by.rehearse(&template).unwrap();
        Ok(by.chain(by.sign(&rehearsal).unwrap()))
    }
}
