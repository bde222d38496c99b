//! Join tokens: see them without their secrets, revoke them.

use audit::Action;
use certs::Timestamp;

use super::{CallError, Caller, Calls};
use crate::{ports::StoredToken, wire};

impl Calls {
    /// All tokens not older than a day past their end.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_tokens(&self, caller: &Caller) -> Result<wire::Page<wire::Token>, CallError> {
        let now = self.clock.now();
        let tokens = self.nodes.tokens().await?;
        let own = tokens.iter().filter(|token| token.tenant == caller.tenant);
        Ok(wire::Page::whole(own.map(|token| shown(token, now)).collect()))
    }

    /// Revokes a token that was not used.
    ///
    /// # Errors
    /// When there is none of this id, or it was spent or revoked before.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        id: &str,
        dry_run: bool,
    ) -> Result<wire::Done, CallError> {
        let now = self.clock.now();
        let missing = || CallError::NotFound { what: "token", name: id.to_owned() };
        let token = self.nodes.token(id).await?.filter(|token| token.tenant == caller.tenant);
        let token = token.ok_or_else(missing)?;
        let state = state(&token, now);
        if state == "spent" || state == "revoked" {
            let why = format!("is {state} already");
            return Err(CallError::Conflict { what: "token", name: id.to_owned(), why });
        }
        if !dry_run {
            let event = caller.event(now, Action::TokenRevoke, id).with("node_id", &token.node);
            self.nodes.revoke_token(id, event).await?;
        }
        let word = if dry_run { "would revoke" } else { "revoked" };
        Ok(wire::Done { dry_run, summary: format!("{word} token {id} of node {}", token.node) })
    }
}

pub(crate) fn state(token: &StoredToken, now: Timestamp) -> &'static str {
    if token.revoked.is_some() {
        "revoked"
    } else if token.spent.is_some() {
        "spent"
    } else if token.expires <= now {
        "expired"
    } else {
        "unused"
    }
}

fn shown(token: &StoredToken, now: Timestamp) -> wire::Token {
    wire::Token {
        id: token.id.clone(),
        node: token.node.to_string(),
        state: state(token, now).to_owned(),
        author: token.author.clone(),
        created: token.created.to_string(),
        expires: token.expires.to_string(),
        failures: token.failures,
    }
}
