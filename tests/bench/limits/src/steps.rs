//! The steps of an issuance one by one, without what they sign and verify: where the time goes.

use std::{
    hint::black_box,
    ops::{AddAssign, Div},
    time::Duration,
};

use anyhow::Context;
use ca::{
    ports::{Authorities, Place},
    testing::MemoryStore,
};
use certs::{Certificate, Chain, Csr, Profile, Rehearser, Serial, SoftwareSigner, Template, Validity};
use spiffe::{ProvenAuthority, Trust, TrustBundle, TrustDomain};

use crate::{
    authority::{DOMAIN, Requests, now},
    bound::Bound,
    clock::micros_each,
};

/// An issuing authority as issuance sees it.
pub(crate) struct Steps {
    issuing: Certificate,
    signer: SoftwareSigner,
    rehearser: Rehearser,
    trust: Trust,
}

/// Microseconds for each certificate.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) read: f64,
    pub(crate) rehearse: f64,
    pub(crate) lint: f64,
    pub(crate) sign: f64,
    pub(crate) check: f64,
}

impl Parts {
    pub(crate) fn sum(&self) -> f64 {
        self.read + self.rehearse + self.lint + self.sign + self.check
    }
}

impl AddAssign for Parts {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.rehearse += other.rehearse;
        self.lint += other.lint;
        self.sign += other.sign;
        self.check += other.check;
    }
}

impl Div<f64> for Parts {
    type Output = Self;
    fn div(self, by: f64) -> Self {
        Self {
            read: self.read / by,
            rehearse: self.rehearse / by,
            lint: self.lint / by,
            sign: self.sign / by,
            check: self.check / by,
        }
    }
}

impl Steps {
    /// With the authorities of `store`.
    pub(crate) async fn of(store: &MemoryStore) -> anyhow::Result<Self> {
        let records = store.load().await?;
        let of = |place| records.iter().find(|record| record.place == place).context("an authority");
        let (root, issuing) = (of(Place::Root)?, of(Place::Issuing)?);
        let signer = SoftwareSigner::try_new(&store.load_key(issuing.id).await?)?;
        let bundle = TrustBundle::new(TrustDomain::parse(DOMAIN)?, vec![root.certificate.clone()], 1);
        Ok(Self {
            rehearser: Rehearser::try_new(&issuing.certificate)?,
            issuing: issuing.certificate.clone(),
            signer,
            trust: Trust::new(bundle),
        })
    }

    /// Each step `count` times.
    pub(crate) fn measure(&self, count: usize, bound: &Bound, requests: &Requests) -> anyhow::Result<Parts> {
        let repeat = |work: &dyn Fn(usize)| micros_each(count, || (0..count).for_each(work));
        let (sign, verify) = (repeat(&|_| bound.sign()), repeat(&|_| bound.verify()));

        let read = repeat(&|number| {
            black_box(Csr::from_der(black_box(requests.der(number))).is_ok());
        });
        let templates: Vec<_> =
            (0..count).map(|number| template(requests.der(number))).collect::<Result<_, _>>()?;
        let rehearse = repeat(&|number| {
            black_box(self.rehearser.rehearse(&templates[number]).is_ok());
        });
        let rehearsals: Vec<_> =
            templates.iter().map(|template| self.rehearser.rehearse(template)).collect::<Result<_, _>>()?;
        let linted = repeat(&|number| {
            black_box(rehearsals[number].lint(Profile::Workload).is_empty());
        });
        let signed = repeat(&|number| {
            black_box(rehearsals[number].sign(&self.signer).is_ok());
        });
        let leaves: Vec<_> =
            rehearsals.iter().map(|rehearsal| rehearsal.sign(&self.signer)).collect::<Result<_, _>>()?;
        let chain = Chain::new(leaves[0].clone(), vec![self.issuing.clone()]);
        let (_, proven) = ProvenAuthority::prove(&chain, &self.trust, now())?;
        let proven = proven.context("one path for both uses")?;
        let checked = repeat(&|number| {
            black_box(leaves[number].differs_in_signature_only(rehearsals[number].certificate()));
            black_box(proven.verify(&leaves[number], now()).is_ok());
        });
        Ok(Parts {
            read: read - verify,
            rehearse: rehearse - sign,
            lint: linted,
            sign: signed - sign,
            check: checked - verify,
        })
    }
}

fn template(request: &[u8]) -> anyhow::Result<Template> {
    Ok(Template {
        profile: Profile::Workload,
        serial: Serial::random(),
        validity: Validity::starting(now(), Duration::from_secs(36_000), None),
        public_key: Csr::from_der(request)?.public_key().clone(),
        subject: None,
        uri: format!("spiffe://{DOMAIN}/ns/shop/service-0"),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    })
}
