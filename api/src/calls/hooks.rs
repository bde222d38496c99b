//! Hooks, for operators.

use audit::{Action, Outcome};

use super::{CallError, Caller, Calls};
use crate::wire;

impl Calls {
    /// Every hook, and how it stands.
    #[must_use]
    pub fn list_hooks(&self) -> Vec<wire::Hook> {
        self.hooks.hooks()
    }

    /// Tells a hook that this is a test. That it did not take it is an answer, not an error.
    ///
    /// # Errors
    /// When there is none of that name, it is being told something else, or the audit log cannot write.
    pub async fn test_hook(&self, caller: &Caller, name: &str) -> Result<wire::HookTested, CallError> {
        let tested = self.hooks.test(name).await?;
        let mut event = caller.event(self.clock.now(), Action::HookTest, name);
        if !tested.taken {
            (event.outcome, event.reason) = (Outcome::Failed, tested.reason.clone());
        }
        let kept = self.audit.append(vec![event]).await;
        kept.map_err(|error| super::trust::unavailable("audit log", &error))?;
        Ok(tested)
    }
}
