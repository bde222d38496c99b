//! Hooks, for operators.

use audit::{Action, Event, Outcome};

use super::{CallError, Caller, Calls};
use crate::wire;

impl Calls {
    /// Every hook, and how it stands.
    #[must_use]
    pub fn list_hooks(&self) -> Vec<wire::Hook> {
        self.hooks.hooks()
    }

    /// Tells a hook that this is a test: one audit row before it is told, and another one if it fails. That it did not
    /// take it is an answer, not an error.
    ///
    /// # Errors
    /// When there is none of that name, it is being told something else, or the audit log cannot write.
    pub async fn test_hook(&self, caller: &Caller, name: &str) -> Result<wire::HookTested, CallError> {
        if !self.hooks.hooks().iter().any(|hook| hook.name == name) {
            return Err(CallError::NotFound { what: "hook", name: name.to_owned() });
        }
        // Before anybody hears anything: who asked stands in the log whatever becomes of it.
        let event = caller.event(self.clock.now(), Action::HookTest, name);
        self.note(event.clone()).await?;
        let tested = self.hooks.test(name).await;
        let reason = match &tested {
            Ok(tested) if tested.taken => return Ok(tested.clone()),
            Ok(tested) => tested.reason.clone(),
            Err(error) => error.to_string(),
        };
        self.note(Event { at: self.clock.now(), outcome: Outcome::Failed, reason, ..event }).await?;
        tested
    }

    async fn note(&self, event: Event) -> Result<(), CallError> {
        let kept = self.audit.append(vec![event]).await;
        kept.map_err(|error| super::trust::unavailable("audit log", &error))
    }
}
