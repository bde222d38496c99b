//! Whether an issuer could sign our next authority, or a leaf, now: everything that takes is tried, in order, with a
//! throwaway key.

use std::{sync::Arc, time::Duration};

use api::{
    ports::{Issuer, VaultSettings},
    sources::{Draft, Examined},
};
use ca::LeafAsked;
use certs::{
    Certificate, Profile, SecretBytes, SecretKey, Timestamp, Usage, Wanted, explain_brought, format_duration,
};
use spiffe::{Trust, TrustBundle};
use vault::{
    Breadth, Client, Mount, NotLoggedIn, Secret, Trouble, Unwrapped, Warning,
    pki::{self, Role},
};
use zeroize::Zeroizing;

use super::{UpstreamInputs, obtain, settings};
use crate::app::checks::Checks;

/// How long the throwaway authority lives: the least that is certainly not over when it is looked at.
const THROWAWAY: Duration = Duration::from_secs(60);
/// How long all of it may take: a call has ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// What becomes of a secret id that was unwrapped and is not kept.
const SPENT: &str =
    "the secret id may be unwrapped by now and is not kept: destroy it in Vault, and wrap a new one";
/// How long a login may take.
const LOGIN: Duration = Duration::from_secs(4);

impl Checks {
    fn trouble(&mut self, rule: &str, trouble: &Trouble) {
        self.failed(rule, trouble.to_string(), trouble.hint());
    }
}

/// As [`examine`], before whoever asked is told that it takes too long.
pub(super) async fn examine_in_time(inputs: &UpstreamInputs, draft: Draft) -> Examined {
    let until = inputs.clock.now() + PATIENCE;
    let is_wrapped = draft.is_wrapped;
    tokio::select! {
        examined = examine(inputs, draft) => examined,
        () = inputs.clock.sleep_until(until) => {
            let mut checks = Checks::default();
            let found = format!("not all was tried within {}", format_duration(PATIENCE));
            let wrapped = if is_wrapped { format!("; {SPENT}") } else { String::new() };
            checks.failed("in-time", found, format!("is each of its addresses reachable and quick?{wrapped}"));
            let credential = SecretBytes::new(Zeroizing::new(Vec::new()));
            Examined { checks: checks.0, signer: None, credential }
        }
    }
}

/// Tries an issuer whole.
async fn examine(inputs: &UpstreamInputs, draft: Draft) -> Examined {
    let mut checks = Checks::default();
    let nothing = |checks: Checks, credential| Examined { checks: checks.0, signer: None, credential };
    let mut credential = draft.credential;
    // What reads no token is asked first: a wrapped secret id is not spent on a Vault that does not answer.
    let opened = settings::open(inputs, &draft.vault, &credential);
    let at = settings::issuer(&draft.vault);
    let (client, at) = match (opened, at) {
        (Ok((client, _)), Ok(at)) => (client, at),
        (Err(why), _) | (_, Err(why)) => {
            checks.failed("settings", why, "correct it, and give the command again");
            checks.skip(&["vault-reach", "signer", "trust-anchor", "login", "breadth", "throwaway"]);
            return nothing(checks, credential);
        }
    };
    let Some(chain) = signer(&client, &at, &mut checks).await else {
        checks.skip(&["trust-anchor", "login", "breadth", "throwaway"]);
        return nothing(checks, credential);
    };
    anchor(&chain, &draft.anchor, &mut checks);
    match draft.vault.role {
        Some(_) => life_above_leaves(&chain, inputs, &mut checks),
        None => life(&chain, &draft.vault, inputs, &mut checks),
    }
    if checks.has_failed() {
        checks.skip(&["login", "breadth", "throwaway"]);
        return nothing(checks, credential);
    }
    if draft.is_wrapped {
        match unwrap(&client, &draft.vault, &credential).await {
            Ok(opened) => {
                checks.passed("unwrap", "the secret id was unwrapped, nobody had before".into());
                limits(&opened, inputs.clock.now(), &mut checks);
                credential = opened.secret_id.into_bytes();
            }
            Err((found, advice)) => {
                checks.failed("unwrap", found, advice);
                checks.skip(&["login", "breadth", "throwaway"]);
                return nothing(checks, credential);
            }
        }
    }
    let issuer = Issuer {
        name: draft.name,
        vault: draft.vault,
        anchor: draft.anchor,
        signer: chain.certificate.clone(),
        generation: 0,
        earlier: Vec::new(),
        fallback: None,
        created: inputs.clock.now(),
        updated: inputs.clock.now(),
        version: 0,
    };
    session(inputs, &issuer, &credential, &mut checks).await;
    if draft.is_wrapped && checks.has_failed() {
        checks.warning("unwrap", "the secret id is not kept".into(), SPENT);
    }
    Examined { checks: checks.0, signer: Some(chain.certificate), credential }
}

/// Who signs: asked of Vault without a token, as anybody may.
async fn signer(client: &Client, at: &pki::Issuer, checks: &mut Checks) -> Option<pki::IssuerChain> {
    let read = match client.call(&at.read()).await {
        Ok(answer) => pki::read_issuer(&answer),
        Err(trouble @ (Trouble::NotFound { .. } | Trouble::Failed { .. } | Trouble::Refused { .. })) => {
            checks.passed("vault-reach", "it answers, and its certificate is vouched for".into());
            let found = format!("{} has no issuer {}: {trouble}", at.mount, at.id);
            checks.failed("signer", found, format!("name one by its id: vault list {}/issuers", at.mount));
            return None;
        }
        Err(trouble) => Err(trouble),
    };
    let chain = match read {
        Ok(chain) => chain,
        Err(trouble) => {
            checks.trouble("vault-reach", &trouble);
            checks.skip(&["signer"]);
            return None;
        }
    };
    checks.passed("vault-reach", "it answers, and its certificate is vouched for".into());
    if chain.is_revoked {
        let found = format!("issuer {} of {} is revoked", at.id, at.mount);
        checks.failed("signer", found, format!("name another one: vault list {}/issuers", at.mount));
        return None;
    }
    if chain.id.as_str() != at.id.as_str() {
        let found = format!("{} is a name, the issuer's id is {}", at.id, chain.id);
        let advice = "pin it by its id: a name, or the default, can be given to another authority";
        checks.failed("signer", found, advice);
        return None;
    }
    let (subject, ends) = (chain.certificate.subject(), chain.certificate.not_after());
    checks.passed("signer", format!("{subject:?}, ends at {ends}"));
    Some(chain)
}

fn anchor(chain: &pki::IssuerChain, anchor: &Certificate, checks: &mut Checks) {
    let mut last = &chain.certificate;
    while let Some(next) = chain.above.iter().find(|above| *above != last && last.is_signed_by(above)) {
        last = next;
    }
    if last == anchor || last.is_signed_by(anchor) {
        let print = hex::encode(anchor.fingerprint());
        return checks.passed("trust-anchor", format!("it leads to {:?}, SHA-256 {print}", anchor.subject()));
    }
    let found = format!("it leads to {:?}, and not to {:?}", last.subject(), anchor.subject());
    checks.failed("trust-anchor", found, "give the root above this issuer as --trust-anchor");
}

/// Whether who signs leaves lives long enough itself.
fn life_above_leaves(chain: &pki::IssuerChain, inputs: &UpstreamInputs, checks: &mut Checks) {
    let left = chain.certificate.not_after().since(inputs.clock.now());
    let least = inputs.workload_life * certs::MIN_LEAF_LIVES;
    let found = format!(
        "the authority that signs has {} left, {} lives of a leaf are {}",
        format_duration(left),
        certs::MIN_LEAF_LIVES,
        format_duration(least)
    );
    let advice = "have it replaced in Vault, and name the next one by its id";
    if left < inputs.workload_life * 2 {
        checks.failed("signer-life", found, advice);
    } else if left < least {
        checks.warning("signer-life", found, advice);
    } else {
        checks.passed("signer-life", found);
    }
}

/// Whether who signs lives long enough itself.
fn life(chain: &pki::IssuerChain, vault: &VaultSettings, inputs: &UpstreamInputs, checks: &mut Checks) {
    let left = chain.certificate.not_after().since(inputs.clock.now());
    let least = inputs.leaf_life * certs::MIN_LEAF_LIVES;
    let words = |than: &str, life| {
        let (left, life) = (format_duration(left), format_duration(life));
        format!("the authority that signs has {left} left, {than} {life}")
    };
    let advice = "have it replaced in Vault, and then: credence issuer update NAME --issuer ID";
    if left < least {
        let found = words("an authority of ours needs", least);
        checks.failed("signer-life", found, advice);
    } else if left < vault.lifetime {
        checks.warning("signer-life", words("ours are asked for", vault.lifetime), advice);
    } else {
        checks.passed("signer-life", words("ours are asked for", vault.lifetime));
    }
    if vault.lifetime < least {
        let found = format!(
            "authorities are asked for {}, {} lives of the longest leaf are {}",
            format_duration(vault.lifetime),
            certs::MIN_LEAF_LIVES,
            format_duration(least)
        );
        checks.failed("lifetime", found, "give a longer --lifetime, or let leaves live shorter");
    }
}

async fn unwrap(
    client: &Client,
    vault: &VaultSettings,
    wrapped: &SecretBytes,
) -> Result<Unwrapped, (String, String)> {
    let api::ports::VaultLogin::AppRole { mount, .. } = &vault.login else {
        return Err(("only secret ids come wrapped".into(), "give it as it is".into()));
    };
    let settings = "correct it, and give the command again";
    let mount = Mount::parse(mount).map_err(|error| (error.to_string(), settings.to_owned()))?;
    let secret = Secret::of(wrapped).map_err(|error| (format!("it {error}"), settings.to_owned()))?;
    match client.unwrap(&mount, &secret).await {
        Ok(opened) => Ok(opened),
        Err(trouble) => Err((trouble.to_string(), advice_of_unwrap(&trouble).to_owned())),
    }
}

fn advice_of_unwrap(trouble: &Trouble) -> &'static str {
    // It was opened then by this very try, or by nobody.
    if trouble.is_outcome_unknown() {
        return SPENT;
    }
    "if it was not you who opened it, destroy that secret id in Vault; then give a new one"
}

/// What Vault says with a secret id that was wrapped, and with no other: when logins by it end.
fn limits(opened: &Unwrapped, now: Timestamp, checks: &mut Checks) {
    let uses = opened.uses.map(Warning::SecretIdUses);
    let ends = opened.ends(now).map(Warning::SecretIdEnds);
    for warning in uses.into_iter().chain(ends) {
        let advice =
            "each login uses it, that of this check did: give one without a limit, or another in time";
        checks.warning("unwrap", warning.to_string(), advice);
    }
}

/// Logs in, looks what we may do, and has a throwaway authority signed.
async fn session(inputs: &UpstreamInputs, issuer: &Issuer, credential: &SecretBytes, checks: &mut Checks) {
    let (client, keeper) = match settings::open(inputs, &issuer.vault, credential) {
        Ok(opened) => opened,
        Err(why) => {
            checks.failed("login", why, "correct it, and give the command again");
            return checks.skip(&["breadth", "throwaway"]);
        }
    };
    let work = async {
        if !login(inputs, &client, checks).await {
            return checks.skip(&["breadth", "throwaway"]);
        }
        if !breadth(&client, issuer, checks) {
            return checks.skip(&["throwaway"]);
        }
        match &issuer.vault.role {
            None => throwaway(inputs, &client, issuer, checks).await,
            Some(role) if settings_of_role(inputs, &client, issuer, role, checks).await => {
                throwaway_leaf(inputs, &client, issuer, checks).await;
            }
            Some(_) => checks.skip(&["throwaway"]),
        }
    };
    // Nobody uses this token again.
    keeper.during(work).await;
}

async fn login(inputs: &UpstreamInputs, client: &Client, checks: &mut Checks) -> bool {
    let mut status = client.status();
    let until = inputs.clock.now() + LOGIN;
    let settled = status.wait_for(|status| {
        let is_halted = status.reason.is_some_and(|reason| reason != NotLoggedIn::NotYet);
        status.is_logged_in() || status.trouble.is_some() || is_halted
    });
    let status = tokio::select! {
        settled = settled => settled.map(|status| status.clone()).ok(),
        () = inputs.clock.sleep_until(until) => None,
    };
    let Some(status) = status else {
        checks.failed(
            "login",
            format!("no answer within {}", format_duration(LOGIN)),
            "look at Vault's own log",
        );
        return false;
    };
    if !status.is_logged_in() {
        let reason = status.reason.unwrap_or(NotLoggedIn::NotYet);
        checks.trouble("login", &status.trouble.unwrap_or(Trouble::NotLoggedIn(reason)));
        return false;
    }
    let ends = status.ends.map_or_else(|| "does not end".to_owned(), |at| format!("is renewed before {at}"));
    checks.passed("login", format!("Vault let us in, the token {ends}"));
    for warning in &status.warnings {
        checks.warning("login", warning.to_string(), "give one without a limit, or renew it in time");
    }
    true
}

fn breadth(client: &Client, issuer: &Issuer, checks: &mut Checks) -> bool {
    let print = format!(
        "credence issuer add vault {} --mount {} --issuer {}{} --print-policy",
        issuer.name,
        issuer.vault.mount,
        issuer.vault.issuer,
        issuer.vault.role.as_ref().map_or_else(String::new, |role| format!(" --role {role}")),
    );
    let found = client.status().borrow().breadth.clone();
    let lacks = |missing: &[String]| format!("the token may not: {}", missing.join(", "));
    match found {
        Some(Breadth::Wide(surplus)) => {
            let role = issuer.vault.role.as_ref();
            let mut signs =
                surplus.iter().filter_map(|one| Some(one.path.rsplit_once("/sign/")?.1.to_owned()));
            let another = signs.find(|signs| signs != "*" && role.is_some_and(|role| role != signs));
            let another =
                another.map(|signs| format!("; or is the role meant that it is for, --role {signs}?"));
            let found = Trouble::OverGranted(surplus).to_string();
            let advice = format!("give it this policy and no other: {print}{}", another.unwrap_or_default());
            checks.failed("breadth", found, advice);
            false
        }
        Some(Breadth::Narrow { missing } | Breadth::NotProvable { missing, .. }) if !missing.is_empty() => {
            checks.failed("breadth", lacks(&missing), format!("give it this policy: {print}"));
            false
        }
        Some(Breadth::Narrow { .. }) => {
            checks.passed("breadth", "the token may do what it must, and nothing else".into());
            true
        }
        Some(Breadth::NotProvable { why, probed, .. }) => {
            let found = format!("what the token may do is not provable: {why}; {probed} paths were probed");
            checks.warning("breadth", found, "let the token have the policy \"default\" beside ours");
            true
        }
        None => {
            checks.warning("breadth", "what the token may do is not known yet".into(), "test it again");
            true
        }
    }
}

/// A throwaway authority that ends after a minute, held against every rule but how long it must live.
async fn throwaway(inputs: &UpstreamInputs, client: &Client, issuer: &Issuer, checks: &mut Checks) {
    let key = SecretKey::generate(Profile::Issuing.key_kind());
    let csr = certs::Csr::build(&key);
    let signed = match obtain::sign(client, inputs.clock.as_ref(), issuer, &inputs.domain, &csr, THROWAWAY)
        .await
    {
        Ok(signed) => signed,
        Err(obtain::Failed::Vault { trouble }) => return checks.trouble("throwaway", &trouble),
        Err(other) => return checks.failed("throwaway", other.to_string(), "look at the issuer in Vault"),
    };
    let domain = inputs.domain.to_uri();
    let wanted = Wanted {
        now: inputs.clock.now(),
        key: key.public().hash(),
        leaf_life: Duration::from_secs(1),
        domain: &domain,
        root: None,
        taken: &[],
        tainted: &[],
    };
    let ders: Vec<&[u8]> = signed.iter().map(Certificate::der).collect();
    let (ladder, brought) = explain_brought(&ders, &wanted);
    for rung in ladder.failures() {
        let found = format!("{}: {}", rung.subject, rung.found);
        checks.failed(&format!("throwaway/{}", rung.rule), found, rung.fix);
    }
    if brought.is_some() {
        let found = "a throwaway authority was signed, holds every rule, and ends in a minute".to_owned();
        checks.passed("throwaway", found);
    }
}

/// What the role allows, and what of it is no good. Whether a leaf is worth asking for.
async fn settings_of_role(
    inputs: &UpstreamInputs,
    client: &Client,
    issuer: &Issuer,
    name: &str,
    checks: &mut Checks,
) -> bool {
    let path = format!("{}/roles/{name}", issuer.vault.mount);
    let mount = Mount::parse(&issuer.vault.mount).map_err(|error| error.to_string());
    let (mount, role) = match (mount, settings::role(&issuer.vault)) {
        (Ok(mount), Ok(Some(role))) => (mount, role),
        (Err(why), _) | (_, Err(why)) => {
            checks.failed("role", why, "correct it, and give the command again");
            return false;
        }
        (Ok(_), Ok(None)) => return false,
    };
    let read = client.call(&pki::read_role(&mount, &role)).await.and_then(|answer| Role::read(&answer));
    let role = match read {
        Ok(role) => role,
        Err(Trouble::NotFound { .. }) => {
            let found = format!("{path} does not exist");
            checks.failed("role", found, format!("vault write {path} with the settings of the reference"));
            return false;
        }
        Err(trouble) => {
            checks.trouble("role", &trouble);
            return false;
        }
    };
    let findings = role.findings(inputs.domain.as_str());
    let is_fatal = findings.iter().any(|one| one.is_fatal);
    if !is_fatal {
        checks.passed("role", format!("{path} allows what is needed"));
    }
    for one in findings {
        let verdict = if one.is_fatal { "failed" } else { "warning" };
        checks.add("role", verdict, one.what, format!("vault write {path} {}", one.instead));
    }
    let (longest, life) = (Duration::from_secs(role.max_ttl_secs()), inputs.workload_life);
    if !longest.is_zero() && longest < life {
        let (longest, wanted) = (format_duration(longest), format_duration(life));
        let found = format!("it allows leaves of {longest}, and they are to live {wanted} here");
        checks.failed("role", found, format!("vault write {path} max_ttl={}s", life.as_secs()));
        return false;
    }
    !is_fatal
}

/// A throwaway leaf that ends after a minute, held against every rule that a peer has.
async fn throwaway_leaf(inputs: &UpstreamInputs, client: &Client, issuer: &Issuer, checks: &mut Checks) {
    let key = SecretKey::generate(Profile::Workload.key_kind());
    let now = inputs.clock.now();
    let asked = LeafAsked {
        csr: certs::Csr::build(&key),
        key: key.public().clone(),
        uri: format!("{}/credence-probe", inputs.domain.to_uri()),
        lifetime: THROWAWAY,
        at: now,
    };
    let chain = match obtain::leaf(client, issuer, &issuer.asked()[0], &asked).await {
        Ok(chain) => chain,
        Err(obtain::Failed::Vault { trouble }) => return checks.trouble("throwaway", &trouble),
        Err(obtain::Failed::Refused { refusal }) => {
            return checks.failed("throwaway", refusal.to_string(), refusal.hint());
        }
        Err(other) => return checks.failed("throwaway", other.to_string(), "look at the issuer in Vault"),
    };
    // As each peer does, with the root that is to enter its bundle.
    let bundle = TrustBundle::new(inputs.domain.clone(), vec![issuer.anchor.clone()], 0);
    let signer = std::iter::once(issuer.signer.spki_hash()).collect();
    let trust = Trust::new(bundle).with_issuers(Arc::new(signer));
    let broken = [Usage::Server, Usage::Client]
        .into_iter()
        .find_map(|usage| spiffe::verify_svid(&chain, &trust, inputs.clock.now(), usage).err());
    match broken {
        Some(error) => {
            let advice =
                "credence cert explain on a leaf of this role says each rule; change the role in Vault";
            checks.failed(&format!("throwaway/{}", error.rule()), error.to_string(), advice);
        }
        None => {
            let found =
                "a throwaway leaf was signed, holds every rule of a peer, and ends in a minute".to_owned();
            checks.passed("throwaway", found);
        }
    }
}

/// What somebody should look at before it becomes a problem; `None` when Vault does not say.
pub(super) async fn warnings(
    client: &Client,
    issuer: &Issuer,
    leaf_life: Duration,
    now: Timestamp,
) -> Option<Vec<String>> {
    let at = settings::issuer(&issuer.vault).ok()?;
    let read = |answer| pki::read_issuer(&answer).ok();
    let chain = client.call(&at.read()).await.ok().and_then(read)?;
    let mut warnings = Vec::new();
    if chain.is_revoked {
        warnings.push(format!("issuer {} of {} is revoked in Vault", at.id, at.mount));
    }
    if chain.certificate != issuer.signer {
        warnings.push(format!("issuer {} of {} has another certificate by now", at.id, at.mount));
    }
    let left = chain.certificate.not_after().since(now);
    if left < leaf_life * certs::MIN_LEAF_LIVES {
        warnings.push(format!("the authority that signs has {} left", format_duration(left)));
    }
    if let Some(default) = client.call(&pki::read_default(&at.mount)).await.ok().and_then(read)
        && default.id.as_str() != at.id.as_str()
    {
        let (name, mount, id) = (&issuer.name, &at.mount, &default.id);
        let how = match issuer.vault.role {
            None => format!("credence issuer update {name} --issuer {id}"),
            Some(_) => {
                format!("credence issuer add vault NAME --issuer {id} beside {name}, and migrate to that")
            }
        };
        warnings.push(format!("{id} is the default issuer of {mount} by now: {how}, if it is to sign"));
    }
    Some(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_secret_id_are_warned_of_and_none_is_no_warning() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let found = |uses, ttl| {
            let secret_id = Secret::of_text("s").unwrap();
            let mut checks = Checks::default();
            limits(&Unwrapped { secret_id, uses, ttl }, now, &mut checks);
            assert!(checks.0.iter().all(|check| check.rule == "unwrap" && check.verdict == "warning"));
            checks.0.into_iter().map(|check| check.found).collect::<Vec<_>>()
        };
        assert_eq!(found(None, None), [""; 0]);
        let words = [
            "the secret id can be used 5 times only: logins fail after that".to_owned(),
            format!("the secret id ends at {}: logins fail after that", now + Duration::from_secs(60)),
        ];
        assert_eq!(found(Some(5), Some(Duration::from_secs(60))), words);
    }

    #[test]
    fn a_secret_id_whose_opening_was_not_answered_may_be_spent_and_nobody_is_suspected() {
        let gateway = Trouble::Unavailable { status: 504, retry_after: None, said: Default::default() };
        assert_eq!(advice_of_unwrap(&gateway), SPENT);
        let refused = Trouble::Refused { said: Default::default() };
        assert!(advice_of_unwrap(&refused).starts_with("if it was not you who opened it"));
    }
}
