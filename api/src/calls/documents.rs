//! Documents: store drafts, apply, look at, roll back.

use audit::Action;
use spiffe::Namespace;
use uuid::Uuid;
use xds::model::{self, Document, Kind, Problem, Problems, Scope};

use super::{
    CallError, Caller, Calls,
    configs::{Prune, Request, Step, Written},
    moved,
};
use crate::{
    ports::{DocumentFilter, RevisionState, StoredDocument},
    problem::Fault,
    wire,
};

/// The most revisions that are looked at for what was effective.
const MAX_HISTORY: usize = 500;

/// Which documents to list. Absent fields do not restrict.
#[derive(Debug, Clone, Default)]
pub struct ConfigFilter {
    /// In which namespace.
    pub namespace: Option<Namespace>,
    /// Of which kind.
    pub kind: Option<String>,
    /// With which name.
    pub name: Option<String>,
    /// With their text.
    pub text: bool,
    /// At most this many.
    pub limit: usize,
    /// After this document.
    pub after: Option<Uuid>,
}

/// Which part of a history to list.
#[derive(Debug, Clone, Copy)]
pub struct HistoryPage {
    /// With the texts.
    pub text: bool,
    /// At most this many.
    pub limit: usize,
    /// Those before this revision.
    pub after: Option<u64>,
}

/// A text of documents to be applied as a whole.
#[derive(Debug, Clone)]
pub struct TextChange {
    /// The documents.
    pub text: String,
    /// What problems call the text.
    pub file: String,
    /// The namespace of documents that name none.
    pub namespace: Namespace,
    /// End every document of that namespace which the text does not have.
    pub prune: bool,
    /// End none of them that has a newer revision than this: what the plan answered that the caller has seen.
    pub prune_up_to: Option<u64>,
    /// Only say what would happen.
    pub dry_run: bool,
    /// Why.
    pub reason: String,
}

impl Calls {
    /// The newest revision of each live document.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn list_configs(
        &self,
        caller: &Caller,
        filter: &ConfigFilter,
    ) -> Result<wire::Page<wire::Config>, CallError> {
        let wanted = DocumentFilter {
            tenant: Some(caller.tenant.clone()),
            namespace: filter.namespace.clone(),
            kind: filter.kind.clone(),
            name: filter.name.clone(),
            limit: filter.limit + 1,
            after: filter.after,
        };
        let found = self.documents.newest(&wanted).await?;
        let more = found.len() > filter.limit;
        let items: Vec<_> = found.iter().take(filter.limit).map(|one| shown(one, filter.text)).collect();
        let next = items.last().filter(|_| more).map(|last| last.id.to_string());
        Ok(wire::Page { items, next })
    }

    /// The newest revision of one document, with its text.
    ///
    /// # Errors
    /// When there is none of this id, or it was deleted.
    pub async fn get_config(&self, caller: &Caller, id: Uuid) -> Result<wire::Config, CallError> {
        Ok(shown(&self.live(caller, id).await?, true))
    }

    async fn live(&self, caller: &Caller, id: Uuid) -> Result<StoredDocument, CallError> {
        let found = self.documents.get(id).await?;
        let found = found.filter(|one| one.tenant == caller.tenant && one.state != RevisionState::Deleted);
        found.ok_or_else(|| CallError::NotFound { what: "document", name: id.to_string() })
    }

    /// Stores the draft of a new document. It must be valid as if it were applied now.
    ///
    /// # Errors
    /// When the text is not one valid document, or there is one of its kind, namespace and name.
    pub async fn create_config(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        text: &str,
        dry_run: bool,
    ) -> Result<wire::Plan, CallError> {
        let written = one(read(caller, namespace, "body", text)?)?;
        let event = caller.event(self.clock.now(), Action::DocumentPut, written.document.key.to_string());
        let step = Step::Put { written: Box::new(written), expected: Some(0), apply: false };
        self.configs.change(Request::new(caller, vec![step], event).dry(dry_run)).await
    }

    /// Stores a draft beside the effective revision.
    ///
    /// # Errors
    /// When the text is not one valid document of the same kind, namespace and name, or somebody else changed it.
    pub async fn update_config(
        &self,
        caller: &Caller,
        id: Uuid,
        text: &str,
        expected: Option<u64>,
        dry_run: bool,
    ) -> Result<wire::Plan, CallError> {
        let current = self.live(caller, id).await?;
        unchanged_since(&current, expected)?;
        let written = one(read(caller, &current.namespace, "body", text)?)?;
        let key = &written.document.key;
        if (key.kind.word(), &*key.name, &key.namespace)
            != (current.kind.as_str(), current.name.as_str(), &current.namespace)
        {
            let why = format!("the body is {key}, the document is {}", label(&current));
            return Err(CallError::Parameter { what: "kind, namespace or name", why });
        }
        let event = caller.event(self.clock.now(), Action::DocumentPut, key.to_string());
        let step = Step::Put { written: Box::new(written), expected: Some(current.revision), apply: false };
        self.configs.change(Request::new(caller, vec![step], event).dry(dry_run)).await
    }

    /// Ends a document. Refused while another one needs it.
    ///
    /// # Errors
    /// When there is none, what would remain is not valid, or somebody else changed it.
    pub async fn delete_config(
        &self,
        caller: &Caller,
        id: Uuid,
        expected: Option<u64>,
        dry_run: bool,
    ) -> Result<wire::Plan, CallError> {
        let current = self.live(caller, id).await?;
        unchanged_since(&current, expected)?;
        let event = caller.event(self.clock.now(), Action::DocumentDelete, label(&current));
        let step = Step::Delete { id, expected };
        self.configs.change(Request::new(caller, vec![step], event).dry(dry_run)).await
    }

    /// Says whether the newest revision could be applied now, and what that would do.
    ///
    /// # Errors
    /// With every problem of it, when it could not.
    pub async fn validate_config(&self, caller: &Caller, id: Uuid) -> Result<wire::Validation, CallError> {
        let current = self.live(caller, id).await?;
        self.validate_text(caller, &current.namespace, &label(&current), &current.text).await
    }

    /// Says whether a text could be applied now, and what that would do.
    ///
    /// # Errors
    /// With every problem of it, when it could not.
    pub async fn validate_text(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        file: &str,
        text: &str,
    ) -> Result<wire::Validation, CallError> {
        let change = TextChange {
            text: text.to_owned(),
            file: file.to_owned(),
            namespace: namespace.clone(),
            prune: false,
            prune_up_to: None,
            dry_run: true,
            reason: String::new(),
        };
        let plan = self.apply_text(caller, &change).await?;
        Ok(wire::Validation { valid: true, plan: Some(plan) })
    }

    /// Makes the newest draft effective.
    ///
    /// # Errors
    /// When it is not valid together with all others, or somebody else changed it.
    pub async fn apply_config(
        &self,
        caller: &Caller,
        id: Uuid,
        expected: Option<u64>,
        dry_run: bool,
    ) -> Result<wire::Plan, CallError> {
        let current = self.live(caller, id).await?;
        unchanged_since(&current, expected)?;
        let event = caller.event(self.clock.now(), Action::DocumentApply, label(&current));
        let step = Step::Apply { id, expected };
        self.configs.change(Request::new(caller, vec![step], event).dry(dry_run)).await
    }

    /// Stores and applies every document of a text, all or none, in one transaction.
    ///
    /// # Errors
    /// With every problem, when what would be effective is not valid; when all of a namespace would end because the text
    /// has no document of it, or one that is pruned was changed since the caller saw the plan.
    pub async fn apply_text(&self, caller: &Caller, change: &TextChange) -> Result<wire::Plan, CallError> {
        let written = read(caller, &change.namespace, &change.file, &change.text)?;
        if written.is_empty() && !change.prune {
            let why = format!("{} has no documents", change.file);
            return Err(CallError::Parameter { what: "text", why });
        }
        if change.prune && !written.iter().any(|one| one.document.key.namespace == change.namespace) {
            // A pipe whose left side failed, or a namespace that was forgotten: nobody means to end all of it by that.
            let why = format!(
                "{} has no document of namespace {}, and every document of that namespace would end: name the namespace of \
                 the documents",
                change.file, change.namespace
            );
            return Err(CallError::Parameter { what: "prune", why });
        }
        let names: Vec<String> = written.iter().take(20).map(|one| one.document.key.to_string()).collect();
        let mut event = caller.event(self.clock.now(), Action::DocumentApply, names.join(", "));
        event = event.with("documents", written.len());
        if change.prune {
            event = event.with("prune", &change.namespace);
        }
        let steps = written
            .into_iter()
            .map(|one| Step::Put { written: Box::new(one), expected: None, apply: true })
            .collect();
        let prune = Prune {
            tenant: caller.tenant.clone(),
            namespace: change.namespace.clone(),
            up_to: change.prune_up_to,
        };
        let request = Request {
            prune: change.prune.then_some(prune),
            reason: change.reason.clone(),
            ..Request::new(caller, steps, event).dry(change.dry_run)
        };
        self.configs.change(request).await
    }

    /// The revisions of the documents that ever had a name, newest first, page by page.
    ///
    /// # Errors
    /// When there never was one.
    pub async fn config_history(
        &self,
        caller: &Caller,
        namespace: &Namespace,
        kind: &str,
        name: &str,
        page: HistoryPage,
    ) -> Result<wire::Page<wire::Config>, CallError> {
        let HistoryPage { text, limit, after } = page;
        let found = self.documents.history(&caller.tenant, namespace, kind, name, after, limit + 1).await?;
        if found.is_empty() && after.is_none() {
            return Err(CallError::NotFound { what: "document", name: format!("{kind} {namespace}/{name}") });
        }
        let more = found.len() > limit;
        let items: Vec<_> = found.iter().take(limit).map(|one| shown(one, text)).collect();
        let next = items.last().filter(|_| more).map(|last| last.revision.to_string());
        Ok(wire::Page { items, next })
    }

    /// The same by the id of a document.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn history_of(
        &self,
        caller: &Caller,
        id: Uuid,
        page: HistoryPage,
    ) -> Result<wire::Page<wire::Config>, CallError> {
        let found = self.documents.get(id).await?.filter(|one| one.tenant == caller.tenant);
        let one = found.ok_or_else(|| CallError::NotFound { what: "document", name: id.to_string() })?;
        self.config_history(caller, &one.namespace, &one.kind, &one.name, page).await
    }

    /// Makes the text of an older revision effective again, as a new revision.
    ///
    /// # Errors
    /// When there is no such revision, or its text is not valid together with what is effective now.
    pub async fn rollback(&self, caller: &Caller, wanted: &wire::Rollback) -> Result<wire::Plan, CallError> {
        let namespace = match &wanted.namespace {
            Some(text) => super::error::name("namespace", Namespace::parse(text))?,
            None => Namespace::default(),
        };
        let (kind, name) = (&wanted.kind, &wanted.name);
        let before = Some(wanted.to.saturating_add(1));
        let found = self.documents.history(&caller.tenant, &namespace, kind, name, before, 1).await?;
        let old = found.first().filter(|one| one.revision == wanted.to);
        let missing = || format!("{} of {kind} {namespace}/{name}", wanted.to);
        let old = old.ok_or_else(|| CallError::NotFound { what: "revision", name: missing() })?;
        if old.state == RevisionState::Deleted {
            let why = "is where the document was deleted: it has no text".to_owned();
            return Err(CallError::Conflict { what: "revision", name: missing(), why });
        }
        let written = one(read(caller, &namespace, &label(old), &old.text)?)?;
        let filter = DocumentFilter {
            tenant: Some(caller.tenant.clone()),
            namespace: Some(namespace.clone()),
            kind: Some(kind.clone()),
            name: Some(name.clone()),
            ..DocumentFilter::default()
        };
        let effective = self.documents.effective(&filter).await?;
        let moved = self.moved_since(caller, old, effective.first(), &written.document).await?;
        let mut event = caller.event(self.clock.now(), Action::DocumentRollback, label(old));
        event = event.with("to", wanted.to);
        let step = Step::Put { written: Box::new(written), expected: None, apply: true };
        let request = Request {
            reason: wanted.reason.clone(),
            ..Request::new(caller, vec![step], event).dry(wanted.dry_run)
        };
        let mut plan = self.configs.change(request).await?;
        plan.warnings.extend(moved);
        Ok(plan)
    }

    /// What an operator should know of the addresses of clusters before the text of `old` is effective again.
    async fn moved_since(
        &self,
        caller: &Caller,
        old: &StoredDocument,
        effective: Option<&StoredDocument>,
        document: &Document,
    ) -> Result<Vec<String>, CallError> {
        let effective = effective.map(|now| read(caller, &old.namespace, &label(now), &now.text));
        // Of one that cannot be read any more nothing is known.
        let effective = effective.and_then(|read| one(read.ok()?).ok());
        let mut warnings = effective.map_or_else(Vec::new, |now| moved::going_back(document, &now.document));
        for (cluster, name) in moved::elsewhere(document) {
            let kind = Kind::Endpoints.word();
            let given =
                self.documents.history(&caller.tenant, &old.namespace, kind, name, None, MAX_HISTORY).await?;
            let given = given.iter().find(|one| one.state != RevisionState::Draft);
            let Some(given) = given.filter(|given| given.at > old.at) else { continue };
            if given.state == RevisionState::Deleted {
                let label = label(given);
                warnings
                    .push(format!("cluster {cluster} has no endpoints: {label} was deleted at {}", given.at));
            } else {
                warnings.push(format!(
                    "cluster {cluster} keeps the endpoints of {} as they are since {}, after revision {}: credence history \
                     {kind} {name}",
                    label(given),
                    given.at,
                    old.revision
                ));
            }
        }
        Ok(warnings)
    }
}

fn unchanged_since(current: &StoredDocument, expected: Option<u64>) -> Result<(), CallError> {
    match expected {
        Some(expected) if expected != current.revision => Err(CallError::Stale {
            what: "document",
            name: label(current),
            expected,
            actual: current.revision,
        }),
        _ => Ok(()),
    }
}

fn one(mut written: Vec<Written>) -> Result<Written, CallError> {
    match (written.pop(), written.len()) {
        (Some(only), 0) => Ok(only),
        (_, others) => Err(CallError::Parameter {
            what: "body",
            why: format!("it has {} documents, this address takes one", others + usize::from(others > 0)),
        }),
    }
}

/// Reads every document of `text`, each with its own part of it.
fn read(caller: &Caller, namespace: &Namespace, file: &str, text: &str) -> Result<Vec<Written>, CallError> {
    let scope = Scope { tenant: caller.tenant.clone(), namespace: namespace.clone() };
    let documents = model::parse_in(&scope, file, text).map_err(not_readable)?;
    let mut parts: Vec<String> = Vec::with_capacity(documents.len());
    for part in split(text) {
        // A part of comments only is no document.
        if !model::parse_in(&scope, file, &part).map_err(not_readable)?.is_empty() {
            parts.push(part);
        }
    }
    if parts.len() != documents.len() {
        let why = "a line of a text value begins with \"---\", indent it".to_owned();
        return Err(CallError::Parameter { what: "text", why });
    }
    let pair = |(document, text): (Document, String)| Written { document, text };
    Ok(documents.into_iter().zip(parts).map(pair).collect())
}

/// Splits a YAML stream at its document markers. A marker stands at the beginning of a line, where no text value
/// can have it (YAML 1.2, 9.1.2).
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let rest = line.strip_prefix("---");
        match rest.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            Some(rest) if rest.trim().is_empty() => parts.push(String::new()),
            Some(_) => parts.push(line.to_owned()),
            None => parts.last_mut().expect("there is always a last part").push_str(line),
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// What cannot be read at all, and what can be read and is wrong, are told apart by the rule.
fn not_readable(problems: Problems) -> CallError {
    let syntax = problems.0.iter().any(|problem| problem.rule.starts_with("syntax"));
    let faults = problems.0.into_iter().map(to_fault).collect();
    if syntax { CallError::Syntax(faults) } else { CallError::Invalid(faults) }
}

pub(crate) fn to_fault(problem: Problem) -> Fault {
    let fix = problem.fix().to_owned();
    Fault {
        file: problem.file.to_string(),
        line: problem.line,
        column: problem.column,
        path: problem.path,
        value: problem.value,
        rule: problem.rule,
        message: problem.message,
        fix,
    }
}

pub(super) fn label(document: &StoredDocument) -> String {
    format!("{} {}/{}", document.kind, document.namespace, document.name)
}

pub(super) fn shown(document: &StoredDocument, text: bool) -> wire::Config {
    wire::Config {
        id: document.id,
        namespace: document.namespace.to_string(),
        kind: document.kind.clone(),
        name: document.name.clone(),
        revision: document.revision,
        state: match document.state {
            RevisionState::Draft => "draft".into(),
            RevisionState::Applied => "applied".into(),
            RevisionState::Deleted => "deleted".into(),
        },
        author: document.author.clone(),
        reason: document.reason.clone(),
        at: document.at.to_string(),
        text: text.then(|| document.text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_markers_only() {
        let check = |text: &str, expected: &[&str]| assert_eq!(split(text), expected, "{text:?}");
        check("a: 1\n", &["a: 1\n"]);
        check("---\na: 1\n---\nb: 2\n", &["a: 1\n", "b: 2\n"]);
        check("# note\n---\r\na: 1", &["# note\n", "a: 1"]);
        check("a: |\n  x\n  ---\nb: ---x\n", &["a: |\n  x\n  ---\nb: ---x\n"]);
        check("--- {a: 1}\n--- {b: 2}\n", &["--- {a: 1}\n", "--- {b: 2}\n"]);
        check("", &[]);
    }
}
