//! The audit log, as operators read it.

use audit::AuditFilter;

use super::{CallError, Caller, Calls, trust::word};
use crate::wire;

impl Calls {
    /// The rows that `filter` asks for, newest first; its limit is what one page holds.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn list_audit(
        &self,
        caller: &Caller,
        filter: AuditFilter,
    ) -> Result<wire::Page<wire::AuditRow>, CallError> {
        let limit = filter.limit;
        let rows = self.audit.list(&AuditFilter { limit: limit + 1, ..filter }).await?;
        let more = rows.len() > limit;
        let next = rows.get(limit.saturating_sub(1)).filter(|_| more).map(|row| row.sequence.to_string());
        let own = rows.iter().take(limit).filter(|row| row.event.tenant == caller.tenant);
        Ok(wire::Page { items: own.map(shown).collect(), next })
    }
}

fn shown(row: &audit::AuditRow) -> wire::AuditRow {
    let event = &row.event;
    wire::AuditRow {
        sequence: row.sequence,
        at: event.at.to_string(),
        actor: event.actor.to_string(),
        action: event.action.word(),
        outcome: word(&event.outcome),
        tenant: event.tenant.to_string(),
        object: event.object.clone(),
        reason: event.reason.clone(),
        details: event.details.clone(),
        request_id: event.request_id.as_ref().map(ToString::to_string),
        count: event.count,
        hash: hex::encode(row.hash),
    }
}
