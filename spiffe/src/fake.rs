//! A fake [`SvidIssuer`] for tests: real certificates from an authority in memory, no journal, and faults on
//! demand.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use certs::{
    Certificate, Chain, Clock, CrlTemplate, Profile, Revocation, RevocationReason, SecretKey, Serial,
    SoftwareSigner, Template, Timestamp, Validity, sign, sign_crl,
};

use crate::{
    AuthorityId, IssueError, IssuedSvid, RecoveryRefusal, ShownList, Spend, SvidIssuer, SvidRequest,
    TokenRefusal, Trust, TrustBundle, TrustDomain,
};

/// A root and one issuing authority below it, which can be replaced; fails and dawdles as told.
pub struct FakeIssuer {
    clock: Arc<dyn Clock>,
    domain: TrustDomain,
    root: (SoftwareSigner, Certificate),
    state: Mutex<State>,
}

struct State {
    authority: Arc<(SoftwareSigner, Certificate)>,
    failure: Option<IssueError>,
    delay: Duration,
    seen: Vec<SvidRequest>,
    spent: HashMap<String, IssuedSvid>,
    running: usize,
    most_running: usize,
}

impl FakeIssuer {
    /// An issuer for `domain` with a root of its own.
    #[must_use]
    pub fn new(domain: &str, clock: Arc<dyn Clock>) -> Self {
        let domain = TrustDomain::parse(domain).expect("tests name good domains");
        let key = SecretKey::generate(Profile::Root.key_kind());
        let signer = SoftwareSigner::try_new(&key).expect("a generated key signs");
        let template = authority_template(Profile::Root, &key, &domain, clock.now(), None);
        let certificate = sign(&template, None, &signer).expect("a root signs itself");
        let root = (signer, certificate);
        let authority = Arc::new(new_authority(&root, &domain, clock.now()));
        let state = State {
            authority,
            failure: None,
            delay: Duration::ZERO,
            seen: Vec::new(),
            spent: HashMap::new(),
            running: 0,
            most_running: 0,
        };
        Self { clock, domain, root, state: Mutex::new(state) }
    }

    /// What its certificates verify against.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust::new(TrustBundle::new(self.domain.clone(), vec![self.root.1.clone()], 1))
    }

    /// Who signs now.
    #[must_use]
    pub fn authority(&self) -> AuthorityId {
        AuthorityId::of(self.state().authority.1.spki_hash())
    }

    /// The revocation list of who signs now, which lives `life`.
    #[must_use]
    pub fn list(&self, number: u64, revoked: &[Serial], life: Duration) -> ShownList {
        let (authority, now) = (Arc::clone(&self.state().authority), self.clock.now());
        let of = |serial: &Serial| Revocation {
            serial: serial.clone(),
            at: now,
            reason: RevocationReason::default(),
        };
        let template = CrlTemplate {
            number,
            this_update: now - Validity::BACKDATE,
            next_update: now + life,
            revoked: revoked.iter().map(of).collect(),
        };
        let crl = sign_crl(&template, &authority.1, &authority.0).expect("an authority signs lists");
        ShownList { authority: self.authority(), number, crl: Arc::new(crl) }
    }

    /// Lets another authority sign from now on.
    pub fn replace_authority(&self) -> AuthorityId {
        let next = Arc::new(new_authority(&self.root, &self.domain, self.clock.now()));
        self.state().authority = next;
        self.authority()
    }

    /// Answers every further request with `failure`; `None` heals it.
    pub fn fail_with(&self, failure: Option<IssueError>) {
        self.state().failure = failure;
    }

    /// Takes so long for each further request, by its clock.
    pub fn delay_by(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Every request so far, in order of arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<SvidRequest> {
        self.state().seen.clone()
    }

    /// How many requests ran at once, at most.
    #[must_use]
    pub fn most_running(&self) -> usize {
        self.state().most_running
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign_leaf(&self, request: &SvidRequest) -> IssuedSvid {
        let now = self.clock.now();
        let authority = Arc::clone(&self.state().authority);
        let template = Template {
            profile: request.profile,
            serial: Serial::random(),
            validity: Validity::starting(now, request.lifetime, None),
            public_key: request.public_key.clone(),
            subject: None,
            uri: request.id.to_string(),
            dns_names: request.dns_names.clone(),
            ip_addresses: request.ip_addresses.clone(),
        };
        let leaf = sign(&template, Some(&authority.1), &authority.0).expect("a good template is signed");
        let id = AuthorityId::of(authority.1.spki_hash());
        IssuedSvid { chain: Chain::new(leaf, vec![authority.1.clone()]), authority: id, issued: now }
    }

    fn answer(&self, request: &SvidRequest) -> Result<IssuedSvid, IssueError> {
        if let Some(failure) = self.state().failure.clone() {
            return Err(failure);
        }
        let svid = self.sign_leaf(request);
        let Some(spend) = &request.spend else { return Ok(svid) };
        // Check and mark under one lock, as the store does it in one transaction.
        let mut state = self.state();
        match state.spent.get(&spend.name()) {
            None => {
                state.spent.insert(spend.name(), svid.clone());
                Ok(svid)
            }
            Some(first) if first.chain.leaf().spki_hash() == spend.spki() => {
                Err(IssueError::AlreadyIssued(Box::new(first.clone())))
            }
            Some(_) => match spend {
                Spend::Token(_) => Err(TokenRefusal::Spent.into()),
                Spend::Recovery(_) => Err(RecoveryRefusal::Spent.into()),
            },
        }
    }
}

#[async_trait]
impl SvidIssuer for FakeIssuer {
    async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, IssueError> {
        let until = {
            let mut state = self.state();
            state.seen.push(request.clone());
            state.running += 1;
            state.most_running = state.most_running.max(state.running);
            self.clock.now() + state.delay
        };
        self.clock.sleep_until(until).await;
        let answer = self.answer(&request);
        self.state().running -= 1;
        answer
    }
}

impl fmt::Debug for FakeIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeIssuer({})", self.domain)
    }
}

fn new_authority(
    root: &(SoftwareSigner, Certificate),
    domain: &TrustDomain,
    now: Timestamp,
) -> (SoftwareSigner, Certificate) {
    let key = SecretKey::generate(Profile::Issuing.key_kind());
    let signer = SoftwareSigner::try_new(&key).expect("a generated key signs");
    let above = Validity { not_before: root.1.not_before(), not_after: root.1.not_after() };
    let template = authority_template(Profile::Issuing, &key, domain, now, Some(above));
    let certificate = sign(&template, Some(&root.1), &root.0).expect("a root signs authorities");
    (signer, certificate)
}

fn authority_template(
    profile: Profile,
    key: &SecretKey,
    domain: &TrustDomain,
    now: Timestamp,
    above: Option<Validity>,
) -> Template {
    Template {
        profile,
        serial: Serial::random(),
        validity: Validity::starting(now, profile.default_lifetime(), above),
        public_key: key.public().clone(),
        subject: Some(("Credence tests".to_owned(), format!("{profile:?}"))),
        uri: domain.to_uri(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    }
}
