//! Issuing authorities that somebody else signs: the request, and what comes back.

use audit::{Action, Event};
use ca::{Install, Installed, ports::AuthorityRequest};
use certs::{explain_unreadable, read_certificates, request_to_pem};

use super::{CallError, Caller, Calls, trust::unavailable};
use crate::wire;

/// What to do when the issuing authority of a distant root is due.
pub(crate) const BRING_INTERMEDIATE: &str =
    "credence ca csr, have it signed by the key of the root, credence ca install FILE";
/// What to do when a distant root is due.
pub(crate) const BRING_ROOT: &str =
    "credence ca csr, have it signed by another root, credence ca install FILE";

impl Calls {
    /// The request that was not answered yet.
    ///
    /// # Errors
    /// When there is none.
    pub async fn authority_request(&self) -> Result<wire::AuthorityRequest, CallError> {
        let missing = || CallError::NotFound { what: "request for", name: "an authority".to_owned() };
        Ok(shown(&self.pending().await?.ok_or_else(missing)?, false, false))
    }

    async fn pending(&self) -> Result<Option<AuthorityRequest>, CallError> {
        self.authorities.request().await.map_err(|error| unavailable("authorities", &error))
    }

    /// The request for an issuing authority that somebody else is to sign: the pending one, or another.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    pub async fn request_authority(
        &self,
        caller: &Caller,
        wanted: &wire::RequestAuthority,
    ) -> Result<wire::AuthorityRequest, CallError> {
        let before = self.pending().await?;
        if wanted.dry_run {
            let nothing = wire::AuthorityRequest {
                dry_run: true,
                is_new: true,
                authority: None,
                made: None,
                by: None,
                pem: None,
            };
            let same = before.filter(|_| !wanted.renew);
            return Ok(same.map_or(nothing, |request| shown(&request, false, true)));
        }
        let request = self.rotation.request(caller, wanted.renew, &wanted.reason).await?;
        let is_new = before.is_none_or(|before| before.id != request.id);
        Ok(shown(&request, is_new, false))
    }

    /// Drops the pending request and destroys its key: what is signed for it will not be taken.
    ///
    /// # Errors
    /// When none is pending.
    pub async fn drop_request(
        &self,
        caller: &Caller,
        reason: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let missing = || CallError::NotFound { what: "request for", name: "an authority".to_owned() };
        let id = match dry_run {
            true => self.pending().await?.ok_or_else(missing)?.id,
            false => self.rotation.drop_request(caller, reason).await?,
        };
        let word = if dry_run { "would drop" } else { "dropped" };
        let summary = format!("{word} the request for {id} and its key: what is signed for it is not taken");
        Ok(wire::Done { dry_run, summary })
    }

    /// Takes the chain that somebody else signed for the pending request, or says what that would do.
    ///
    /// # Errors
    /// With the ladder when the chain breaks rules; when none is pending, or no rotation may begin now.
    pub async fn install_authority(
        &self,
        caller: &Caller,
        wanted: &wire::InstallAuthority,
    ) -> Result<wire::Installed, CallError> {
        let outcome = match read_certificates(wanted.chain.as_bytes()) {
            Err(error) => Err(CallError::Chain(Box::new(explain_unreadable(&error.to_string())))),
            Ok(contents) => {
                let wish = Install {
                    ders: contents.certificates,
                    automatic: wanted.automatic,
                    dry_run: wanted.dry_run,
                };
                self.rotation.install(caller, wish, &wanted.reason).await
            }
        };
        match outcome {
            Ok(installed) => self.installed(&installed, wanted.dry_run).await,
            Err(error) => {
                // Also when it was only asked about: commands ask first.
                let object = self.pending().await?.map_or("none".to_owned(), |one| one.id.to_string());
                let refused = Event::refused(
                    self.clock.now(),
                    caller.actor.clone(),
                    Action::AuthorityInstall,
                    object,
                    error.to_string(),
                );
                self.refusals.refuse(refused.in_request(caller.request_id.clone()));
                Err(error)
            }
        }
    }

    pub(super) async fn installed(
        &self,
        installed: &Installed,
        dry_run: bool,
    ) -> Result<wire::Installed, CallError> {
        let (issuing, root) = (installed.issuing, installed.root);
        let mut steps = if installed.is_new_root {
            vec![
                format!("root {root} enters every bundle, prepared; it and {issuing} sign nothing yet"),
                "credence ca rotate root activate, once every connected node has acknowledged it".to_owned(),
                "credence ca rotate root finish, once nobody depends on the root before".to_owned(),
            ]
        } else {
            vec![
                format!("{issuing} signs every new leaf at once, under the same root"),
                "the one before retires, and goes when no unexpired leaf depends on it".to_owned(),
            ]
        };
        if installed.is_new_root && !installed.has_way_back {
            steps.push(
                "the key of the root before is not here, so nobody vouches for us towards nodes that do not know the new \
                 one: activate also waits until each node has it in its bundle file"
                    .to_owned(),
            );
        }
        let rotation = match dry_run {
            true => self.shown_rotation(&installed.rotation, true).await?,
            false => self.kept_rotation(&installed.rotation).await,
        };
        Ok(wire::Installed {
            dry_run,
            authority: issuing.to_string(),
            expires: installed.not_after.to_string(),
            between: installed.between,
            root: root.to_string(),
            is_new_root: installed.is_new_root,
            has_way_back: installed.has_way_back,
            steps,
            rotation,
            ladder: wire::Ladder::from(&installed.ladder),
        })
    }
}

fn shown(request: &AuthorityRequest, is_new: bool, dry_run: bool) -> wire::AuthorityRequest {
    wire::AuthorityRequest {
        dry_run,
        is_new,
        authority: Some(request.id.to_string()),
        made: Some(request.created.to_string()),
        by: Some(request.by.clone()),
        pem: Some(request_to_pem(&request.csr)),
    }
}
