//! An account is made, or gets another key: whatever was stored before each request says how to go on after a kill.

use std::{sync::Arc, time::Duration};

use acme::{Account, Client, ExternalAccount, Opens, Registration, Trouble, hint_about};
use api::{
    calls::{CallError, Caller},
    ports::{AcmeIssuer, KeptAcme},
    sources::{AcmeDraft, AcmeOutcome},
    wire::IssuerCheck,
};
use audit::{Action, Actor, Event};
use certs::{KeyKind, SecretBytes, SecretKey, Signer, SoftwareSigner, Timestamp};
use spiffe::IssuerName;

use super::{Reply, Shared, settings};

/// How long a request for another key may be under way after its answer was lost: a next key that the server may be
/// taking just then is not dropped.
const UNDER_WAY: Duration = Duration::from_secs(30);

/// How long a server has after the answer was lost before it counts as having lost the account: one of several that is behind the others
/// may know neither key for a while, and the next key may be the account's.
const BEHIND: Duration = Duration::from_secs(15 * 60);

/// No key of ours opens the account.
const LOST: &str = "the server knows neither the key of the account nor the next one: it has lost the account, or \
                    somebody else gave it a key. The key is the one before";

/// On whose account.
pub(super) enum By {
    /// Somebody asked for it.
    Caller(Caller, String),
    /// We go on with what was begun.
    Ourselves,
}

impl By {
    fn event(&self, at: Timestamp, action: Action, name: &IssuerName) -> Event {
        match self {
            Self::Caller(caller, reason) => {
                let mut event = caller.event(at, action, name.as_str());
                reason.clone_into(&mut event.reason);
                event
            }
            Self::Ourselves => Event::done(at, Actor::System, action, name.as_str()),
        }
    }
}

/// How far it came.
pub(super) enum Progress {
    /// There is nothing to do, or nothing any more.
    Nothing,
    /// There is an account with one key.
    Settled(AcmeOutcome),
    /// The account is as it was: another key was asked for and has not come about.
    NotChanged(IssuerCheck),
    /// There is no account for its key, and it was not registered again.
    Lost(IssuerCheck),
    /// It is not known yet, and is tried again.
    Pending {
        outcome: AcmeOutcome,
        /// What the matter is.
        problem: String,
        /// When the server wants to be asked again, at the earliest.
        pause: Option<Duration>,
    },
}

/// What becomes of a change of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next key is the key.
    Changed,
    /// The server is asked again for the same next key.
    Ask,
    /// It has ended: the account has the key that it had.
    NotChanged,
    /// It has ended: the server knows neither key.
    Lost,
    /// The server may be changing it now.
    Wait,
}

/// By which key opens the account, how long ago the server was asked for the next one (`None` if it has refused that for
/// certain), and whether somebody asks again.
pub(super) fn judge(opens: Opens, asked: Option<Duration>, is_wanted: bool) -> Verdict {
    let is_past = |bound| asked.is_none_or(|ago| ago >= bound);
    match opens {
        Opens::New => Verdict::Changed,
        Opens::Old if is_wanted => Verdict::Ask,
        Opens::Old if is_past(UNDER_WAY) => Verdict::NotChanged,
        Opens::Neither if is_past(BEHIND) => Verdict::Lost,
        Opens::Old | Opens::Neither => Verdict::Wait,
    }
}

/// Signs by a key that is kept.
///
/// # Errors
/// In words, without the key.
pub(super) fn signer(key: &SecretBytes) -> Result<Arc<dyn Signer>, String> {
    let key = SecretKey::from_bytes(key).map_err(|error| format!("the key of the account: {error}"))?;
    let signer = SoftwareSigner::try_new(&key).map_err(|error| format!("the key of the account: {error}"))?;
    Ok(Arc::new(signer))
}

/// One issuer that is being settled.
pub(super) struct Settling<'a> {
    shared: &'a Shared,
    by: By,
    name: IssuerName,
    /// Whoever waits for what becomes of it.
    reply: Option<&'a Reply>,
}

impl<'a> Settling<'a> {
    pub(super) fn new(shared: &'a Shared, by: By, name: IssuerName, reply: Option<&'a Reply>) -> Self {
        Self { shared, by, name, reply }
    }

    /// Whether somebody is still there to hear what becomes of it.
    fn is_heard(&self) -> bool {
        self.reply.is_some_and(|reply| !reply.is_closed())
    }

    /// Makes an account with a new key, or goes on with what was begun by the same settings.
    pub(super) async fn register(&self, draft: AcmeDraft) -> Result<Progress, CallError> {
        let (what, name) = ("issuer", self.name.to_string());
        match self.shared.find(&self.name).await? {
            Some(known) if known.issuer.account.is_none() && known.issuer.acme == draft.acme => {
                let known = match draft.external_key {
                    // The one before may have been the mistake.
                    Some(key) => {
                        let known = KeptAcme { external_key: Some(key), ..known };
                        self.put(known, |event| event.with("step", "register")).await?
                    }
                    None => known,
                };
                self.registration(known, false).await
            }
            Some(_) => Err(CallError::Exists { what, name }),
            None => {
                let now = self.shared.clock.now();
                let issuer = AcmeIssuer {
                    name: self.name.clone(),
                    acme: draft.acme,
                    account: None,
                    is_changing_key: false,
                    created: now,
                    updated: now,
                    version: 0,
                };
                let kept = KeptAcme {
                    issuer,
                    key: SecretKey::generate(KeyKind::P256).to_bytes(),
                    next_key: None,
                    external_key: draft.external_key,
                };
                // Before anybody is asked to make an account for it.
                let kept = self.put(kept, |event| event.with("step", "register")).await?;
                self.registration(kept, true).await
            }
        }
    }

    /// Gives the account another key, or goes on with what was begun.
    pub(super) async fn change_key(&self) -> Result<Progress, CallError> {
        let (what, name) = ("issuer", self.name.to_string());
        let Some(kept) = self.shared.find(&self.name).await? else {
            return Err(CallError::NotFound { what, name });
        };
        if kept.issuer.account.is_none() {
            let why = "has no account yet, it is being registered".to_owned();
            return Err(CallError::Conflict { what, name, why });
        }
        if kept.next_key.is_some() {
            return self.rollover(kept, false).await;
        }
        let next_key = Some(SecretKey::generate(KeyKind::P256).to_bytes());
        // Before the server hears of it.
        let kept = self.put(KeptAcme { next_key, ..kept }, |event| event.with("step", "change-key")).await?;
        self.rollover(kept, true).await
    }

    /// Makes an account anew for the key that is kept. One that the server has by now, because an answer was lost, is
    /// taken.
    pub(super) async fn register_again(&self, draft: AcmeDraft) -> Result<Progress, CallError> {
        let (what, name) = ("issuer", self.name.to_string());
        let Some(mut kept) = self.shared.find(&self.name).await? else {
            return Err(CallError::NotFound { what, name });
        };
        let conflict = |why: &str| Err(CallError::Conflict { what, name: name.clone(), why: why.to_owned() });
        if !kept.is_settled() {
            return conflict("is being registered, or is getting another key");
        }
        let not_made = |found: String, advice: &str| {
            Ok(Progress::Lost(check("account", "failed", found, advice.to_owned())))
        };
        let (client, key) = match (self.client(&kept), signer(&kept.key)) {
            (Ok(client), Ok(key)) => (client, key),
            (Err(why), _) | (_, Err(why)) => return not_made(why, "correct it, and give the command again"),
        };
        let parsed = draft.acme.external.as_deref().zip(draft.external_key.as_ref());
        let external = match parsed.map(|(id, key)| ExternalAccount::parse(id, key)).transpose() {
            Ok(external) => external,
            Err(error) => {
                return not_made(error.to_string(), "give the key as who runs the server hands it out");
            }
        };
        let found = match client.find(&*key).await {
            Ok(Some(found))
                if Some(found.url.as_str()) == kept.issuer.account.as_deref() && found.is_valid =>
            {
                return conflict("has its account: the server finds it by its key");
            }
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                kept.issuer.acme.external = None;
                let (contacts, agreed) = (&draft.acme.contacts, draft.acme.agreed.as_deref());
                client.register(&*key, &Registration { contacts, agreed, external: external.as_ref() }).await
            }
            Err(trouble) => Err(trouble),
        };
        match found {
            Ok(found) if found.is_valid => {
                // Of one that was made before, the answer to which was lost, only what is given now.
                let (made, given) = (&mut kept.issuer.acme, draft.acme);
                made.external = given.external.or_else(|| made.external.take());
                made.agreed = given.agreed.or_else(|| made.agreed.take());
                let account = found.url.as_str();
                kept.issuer.account = Some(account.to_owned());
                let told = |event: Event| event.with("step", "registered-again").with("account", account);
                let kept = self.put(kept, told).await?;
                let check = check("account", "passed", format!("{account} is there for its key"), "");
                Ok(Progress::Settled(AcmeOutcome { issuer: kept.issuer, check }))
            }
            Ok(found) => {
                let advice = "ask who runs the server why; then add it under another name, give the listener another \
                              edge of it, and remove this one";
                not_made(format!("{} was deactivated", found.url), advice)
            }
            Err(trouble) if trouble.is_outcome_unknown() => {
                let advice =
                    "give the command again: an account that the server has made is found by its key";
                not_made(trouble.to_string(), advice)
            }
            Err(trouble) => not_made(trouble.to_string(), &self.hint(&trouble)),
        }
    }

    /// Goes on with whatever was begun.
    pub(super) async fn go_on(&self) -> Result<Progress, CallError> {
        match self.shared.find(&self.name).await? {
            Some(kept) if kept.issuer.account.is_none() => self.registration(kept, false).await,
            Some(kept) if kept.next_key.is_some() => self.rollover(kept, false).await,
            _ => Ok(Progress::Nothing),
        }
    }

    /// A fresh one was never asked for before.
    async fn registration(&self, kept: KeptAcme, is_fresh: bool) -> Result<Progress, CallError> {
        let (client, key) = match (self.client(&kept), signer(&kept.key)) {
            (Ok(client), Ok(key)) => (client, key),
            (Err(why), _) | (_, Err(why)) => return self.refused(kept, "account", why, "correct it").await,
        };
        if !is_fresh {
            match client.find(&*key).await {
                Ok(Some(found)) if found.is_valid => return self.made(kept, found.url.as_str()).await,
                Ok(Some(found)) => {
                    let found = format!("{} was deactivated", found.url);
                    return self.refused(kept, "account", found, "ask who runs the server why").await;
                }
                Ok(None) => {}
                Err(trouble) => return Ok(self.pending(kept.issuer, "account", &trouble)),
            }
        }
        let external = match (&kept.issuer.acme.external, &kept.external_key) {
            (Some(id), Some(key)) => match ExternalAccount::parse(id, key) {
                Ok(external) => Some(external),
                Err(error) => {
                    let advice = "give the key as who runs the server hands it out";
                    return self.refused(kept, "external-account", error.to_string(), advice).await;
                }
            },
            _ => None,
        };
        let registered = client
            .register(
                &*key,
                &Registration {
                    contacts: &kept.issuer.acme.contacts,
                    agreed: kept.issuer.acme.agreed.as_deref(),
                    external: external.as_ref(),
                },
            )
            .await;
        match registered {
            Ok(found) if found.is_valid => self.made(kept, found.url.as_str()).await,
            Ok(found) => {
                let found = format!("{} is not valid", found.url);
                self.refused(kept, "account", found, "ask who runs the server why").await
            }
            Err(trouble) if trouble.is_outcome_unknown() => {
                Ok(self.pending(kept.issuer, "account", &trouble))
            }
            Err(trouble) if self.is_heard() => {
                self.refused(kept, "account", trouble.to_string(), self.hint(&trouble)).await
            }
            // Nobody is there to hear why it is gone: it stays, and says so.
            Err(trouble) => Ok(self.pending(kept.issuer, "account", &trouble)),
        }
    }

    /// The account is there, and its external key is of no more use.
    async fn made(&self, kept: KeptAcme, account: &str) -> Result<Progress, CallError> {
        let issuer = AcmeIssuer { account: Some(account.to_owned()), ..kept.issuer };
        let kept = KeptAcme { issuer, external_key: None, ..kept };
        let kept = self.put(kept, |event| event.with("account", account)).await?;
        let check = check("account", "passed", format!("{account} was made with a key of its own"), "");
        Ok(Progress::Settled(AcmeOutcome { issuer: kept.issuer, check }))
    }

    /// There is no account: nothing half-made stays behind, if somebody is there to hear why. Else it stays, and says
    /// so: whoever was told that it goes on looks for it.
    async fn refused(
        &self,
        kept: KeptAcme,
        rule: &str,
        found: String,
        advice: impl Into<String>,
    ) -> Result<Progress, CallError> {
        let check = check(rule, "failed", found, advice);
        if !self.is_heard() {
            let problem = format!("{}; {}", check.found, check.advice);
            let outcome = AcmeOutcome { issuer: kept.issuer, check };
            return Ok(Progress::Pending { outcome, problem, pause: None });
        }
        let mut event = self.by.event(self.shared.clock.now(), Action::IssuerRemove, &self.name);
        event.reason = format!("no account was made: {}", check.found);
        self.shared.store.remove_acme_issuer(&self.name, Some(kept.issuer.version), event).await?;
        Err(CallError::Issuer { name: self.name.to_string(), checks: vec![check] })
    }

    /// With a fresh key the server was never asked to take it before. With another one it is looked which key opens
    /// the account; where that is the one before, the change has ended, unless somebody asks for it again, and where it
    /// is neither for long it has ended too: nothing is ordered meanwhile.
    async fn rollover(&self, mut kept: KeptAcme, is_fresh: bool) -> Result<Progress, CallError> {
        let rule = "account-key";
        let opened = (|| {
            let (account, next) = (kept.issuer.account.as_deref(), kept.next_key.as_ref());
            let (account, next) = (account.unwrap_or_default(), next.ok_or("there is no next key")?);
            Ok::<_, String>((
                self.client(&kept)?,
                Account { url: settings::url(account)?, signer: signer(&kept.key)? },
                signer(next)?,
            ))
        })();
        let (client, account, next) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                let check = check(rule, "warning", why.clone(), "remove the issuer, and add it again");
                let outcome = AcmeOutcome { issuer: kept.issuer, check };
                return Ok(Progress::Pending { outcome, problem: why, pause: None });
            }
        };
        if !is_fresh {
            let asked = Some(self.shared.clock.now().since(kept.issuer.updated));
            let opens = match client.opens(&account.url, &*account.signer, &*next).await {
                Ok(opens) => opens,
                Err(trouble) => return Ok(self.pending(kept.issuer, rule, &trouble)),
            };
            match judge(opens, asked, matches!(self.by, By::Caller(..))) {
                Verdict::Changed => return self.changed(kept).await,
                // By the same key, which the server may be taking now. On record before it is asked.
                Verdict::Ask => kept = self.put(kept, |event| event.with("step", "change-key")).await?,
                Verdict::NotChanged => return self.ended(kept).await,
                Verdict::Lost => return self.lost(kept).await,
                Verdict::Wait => return Ok(under_way(kept.issuer, opens)),
            }
        }
        let Err(trouble) = client.change_key(&account, &*next).await else { return self.changed(kept).await };
        let opens = client.opens(&account.url, &*account.signer, &*next).await;
        let asked = trouble.is_outcome_unknown().then_some(Duration::ZERO);
        match opens.map(|opens| judge(opens, asked, false)) {
            Ok(Verdict::Changed) => self.changed(kept).await,
            Ok(Verdict::NotChanged) => {
                let check = check(rule, "failed", trouble.to_string(), self.hint(&trouble));
                self.not_changed(kept, check).await
            }
            Ok(Verdict::Lost) => self.lost(kept).await,
            Ok(Verdict::Ask | Verdict::Wait) | Err(_) => match self.pending(kept.issuer, rule, &trouble) {
                // Which key it is may be asked whenever: only the change is not asked for again.
                Progress::Pending { outcome, problem, .. } => {
                    Ok(Progress::Pending { outcome, problem, pause: None })
                }
                other => Ok(other),
            },
        }
    }

    /// The server was asked for another key, and the account opens by the one before.
    async fn ended(&self, kept: KeptAcme) -> Result<Progress, CallError> {
        let rule = "account-key";
        let found =
            "the server was asked for another key, and has not changed it: the account has the one before";
        let advice = format!("ask again: credence issuer credentials {} --new-account-key", self.name);
        self.not_changed(kept, check(rule, "failed", found.to_owned(), advice)).await
    }

    /// The server has no account of ours that could get another key. The one before stays: it is no worse than any.
    async fn lost(&self, kept: KeptAcme) -> Result<Progress, CallError> {
        let advice = format!(
            "register it again, by the key that it has: credence issuer credentials {} --register-again",
            self.name
        );
        let check = check("account-key", "failed", LOST.into(), advice);
        self.same_key(kept).await?;
        Ok(Progress::Lost(check))
    }

    /// The next key is the key, and the one before is destroyed with its record.
    async fn changed(&self, kept: KeptAcme) -> Result<Progress, CallError> {
        let KeptAcme { issuer, key, next_key, external_key } = kept;
        let key = next_key.unwrap_or(key);
        let kept = KeptAcme { issuer, key, next_key: None, external_key };
        let kept = self.put(kept, |event| event.with("step", "key-changed")).await?;
        let check = check("account-key", "passed", "the account has another key".into(), "");
        Ok(Progress::Settled(AcmeOutcome { issuer: kept.issuer, check }))
    }

    /// The server will not have it: the key of before stays.
    async fn not_changed(&self, kept: KeptAcme, check: IssuerCheck) -> Result<Progress, CallError> {
        self.same_key(kept).await?;
        Ok(Progress::NotChanged(check))
    }

    async fn same_key(&self, kept: KeptAcme) -> Result<KeptAcme, CallError> {
        let kept = KeptAcme { next_key: None, ..kept };
        self.put(kept, |event| event.with("step", "key-not-changed")).await
    }

    /// It is not known what became of it, or it cannot be now.
    fn pending(&self, issuer: AcmeIssuer, rule: &str, trouble: &Trouble) -> Progress {
        let advice = "nothing: what became of it is found out by itself";
        let problem = format!("{trouble}; {}", self.hint(trouble));
        let pause = trouble.retry_after().map(|after| after.from_now(self.shared.clock.now()));
        let outcome = AcmeOutcome { issuer, check: check(rule, "warning", trouble.to_string(), advice) };
        Progress::Pending { outcome, problem, pause }
    }

    fn hint(&self, trouble: &Trouble) -> String {
        hint_about(&trouble.hint(), self.name.as_str())
    }

    fn client(&self, kept: &KeptAcme) -> Result<Arc<Client>, String> {
        self.shared.client(&kept.issuer)
    }

    /// Stores it, and answers it as it is kept.
    async fn put(&self, kept: KeptAcme, told: impl FnOnce(Event) -> Event) -> Result<KeptAcme, CallError> {
        let event = self.by.event(self.shared.clock.now(), Action::IssuerSet, &self.name);
        let event = told(event.with("directory", &kept.issuer.acme.directory));
        let expected = kept.issuer.version;
        self.shared.store.put_acme_issuer(kept, expected, event).await?;
        // What is kept is read back, not believed: keys are not copied.
        let missing = || CallError::NotFound { what: "issuer", name: self.name.to_string() };
        self.shared.find(&self.name).await?.ok_or_else(missing)
    }
}

fn check(rule: &str, verdict: &str, found: String, advice: impl Into<String>) -> IssuerCheck {
    IssuerCheck { rule: rule.into(), verdict: verdict.into(), found, advice: advice.into() }
}

/// The server may be about to change the key, or be behind one that has: both are kept, and it is looked at again.
fn under_way(issuer: AcmeIssuer, opens: Opens) -> Progress {
    let found = match opens {
        Opens::Neither => {
            "the server knows neither the key of the account nor the next one: it may have lost the account, or \
                           be behind another server"
        }
        Opens::Old | Opens::New => "the server has not changed the key yet, and may be about to",
    };
    let found = found.to_owned();
    let advice = "nothing: what became of it is found out by itself";
    let problem = format!("{found}; {advice}");
    let outcome = AcmeOutcome { issuer, check: check("account-key", "warning", found, advice) };
    Progress::Pending { outcome, problem, pause: None }
}
