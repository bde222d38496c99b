//! `apply`, `diff`, `get`, `delete`, `history`, `rollback`.

use std::{fs, path::Path};

use api::wire::{self, PlanAction};
use similar::TextDiff;

use super::{dry, may_go_on, texts};
use crate::{
    cli::{
        ApplyArgs, ChangeArgs, DeleteArgs, DiffArgs, FileArgs, Format, GetArgs, HistoryArgs, NameArgs,
        RollbackArgs,
    },
    client::{Client, encode},
    output::{self, Exit, Failure, note, say_stored},
};

/// One text of documents, and what to call it.
pub(super) struct Source {
    pub(super) file: String,
    pub(super) text: String,
}

/// Reads a file, the documents of a folder in the order of their names, or standard input.
pub(super) fn read(path: &Path) -> Result<Vec<Source>, Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::new(Exit::Failed, format!("cannot read {}: {error}", path.display()), "check the path")
    };
    if path == Path::new("-") {
        return Ok(vec![Source { file: "stdin".into(), text: texts::read(path)? }]);
    }
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        paths = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| failed(path, error))? {
            let entry = entry.map_err(|error| failed(path, error))?.path();
            if is_document(&entry).map_err(|error| failed(&entry, error))? {
                paths.push(entry);
            }
        }
        paths.sort();
        if paths.is_empty() {
            let message = format!("{} has no *.yaml, *.yml or *.json files", path.display());
            return Err(Failure::usage(message, "name a file, or a folder with documents"));
        }
    }
    let one =
        |path: &std::path::PathBuf| Ok(Source { file: path.display().to_string(), text: texts::read(path)? });
    paths.iter().map(one).collect()
}

/// Whether an entry of a folder is a document by its name. What cannot be looked at is an error: to be passed over in
/// silence would end its documents where everything else is pruned. Passed over is the link that Emacs keeps beside a file
/// with unsaved edits: it leads nowhere, and was never a document.
fn is_document(path: &Path) -> std::io::Result<bool> {
    if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".#")) {
        return Ok(false);
    }
    let named = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
    if !named {
        return Ok(false);
    }
    let found = fs::metadata(path)?;
    match found.is_file() || found.is_dir() {
        true => Ok(found.is_file()),
        false => Err(std::io::Error::other("it is no file")),
    }
}

/// All texts as one, so that all are applied or none; and what maps a place in it back to its file.
struct Joined {
    text: String,
    file: String,
    /// Each file with the line of the joined text on which it begins, from 1.
    starts: Vec<(u32, String)>,
}

fn join(sources: Vec<Source>) -> Joined {
    let mut joined = Joined { text: String::new(), file: String::new(), starts: Vec::new() };
    let only = sources.len() == 1;
    for source in sources {
        if !joined.text.is_empty() {
            if !joined.text.ends_with('\n') {
                joined.text.push('\n');
            }
            joined.text.push_str("---\n");
        }
        let line = u32::try_from(joined.text.lines().count()).unwrap_or(0) + 1;
        joined.file = if only { source.file.clone() } else { "all files".into() };
        joined.starts.push((line, source.file));
        joined.text.push_str(&source.text);
    }
    joined
}

impl Joined {
    /// Puts the places of a failure back into the files that they came from.
    fn unjoin(&self, mut failure: Failure) -> Failure {
        for fault in failure.faults.iter_mut().filter(|fault| fault.file == self.file && fault.line > 0) {
            if let Some((start, file)) = self.starts.iter().rev().find(|(start, _)| *start <= fault.line) {
                fault.line -= start - 1;
                fault.file.clone_from(file);
            }
        }
        failure
    }

    async fn send(&self, client: &Client, files: &FileArgs, how: &str) -> Result<wire::Plan, Failure> {
        let (namespace, file) = (encode(&files.namespace), encode(&self.file));
        let path = format!("/apply?namespace={namespace}&file={file}{how}");
        client.post_text(&path, self.text.clone()).await.map_err(|failure| self.unjoin(failure))
    }
}

pub(super) async fn apply(args: &ApplyArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let joined = join(read(&args.files.path)?);
    let mut how = format!("&prune={}&reason={}", args.prune, encode(&args.reason));
    if args.change.dry_run {
        how.push_str("&dry_run=true");
    } else if args.prune && !args.change.yes {
        let planned = joined.send(&client, &args.files, &format!("{how}&dry_run=true")).await?;
        if planned.items.iter().any(|item| item.action == PlanAction::Delete) {
            note(&plan_table(&planned));
            may_go_on(&args.change, "apply this plan, which ends documents?")?;
        }
        // What is done is what was shown, also where somebody else changes documents while the question stands.
        how.push_str(&format!("&prune_up_to={}", planned.prune_up_to.unwrap_or_default()));
    }
    print_plan(&args.change, &joined.send(&client, &args.files, &how).await?)
}

/// Prints a plan, or what was done.
pub(super) fn print_plan(change: &ChangeArgs, plan: &wire::Plan) -> Result<Exit, Failure> {
    output::show(change.output, plan, plan_table)?;
    Ok(Exit::Ok)
}

/// A plan for people. A dry run says what would happen; a change says what did.
pub(super) fn plan_table(plan: &wire::Plan) -> String {
    let rows = plan.items.iter().map(|item| {
        let made = plan
            .revisions
            .iter()
            .find(|one| one.kind == item.kind && one.namespace == item.namespace && one.name == item.name);
        let revision = made.map_or_else(|| "-".to_owned(), |one| one.revision.to_string());
        vec![
            action_word(item.action).into(),
            item.kind.clone(),
            item.namespace.clone(),
            item.name.clone(),
            revision,
        ]
    });
    let mut text = output::table(&["action", "kind", "namespace", "name", "revision"], rows);
    text.push_str("\n\n");
    text.push_str(&match (plan.nodes.len(), plan.dry_run) {
        (0, _) => "no proxy changes".to_owned(),
        (count, true) => format!("would change {}: {}", proxies(count), some(&plan.nodes)),
        (count, false) => format!("changes {}: {}", proxies(count), some(&plan.nodes)),
    });
    for warning in &plan.warnings {
        text.push_str(&format!("\nWARNING: {warning}"));
    }
    if plan.dry_run {
        text.push_str("\ndry run: nothing was changed");
    }
    text
}

fn proxies(number: usize) -> String {
    output::count(number, "proxy", "proxies")
}

fn some(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn action_word(action: PlanAction) -> &'static str {
    match action {
        PlanAction::Create => "create",
        PlanAction::Update => "update",
        PlanAction::Unchanged => "unchanged",
        PlanAction::Delete => "delete",
    }
}

pub(super) async fn diff(args: &DiffArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.server)?;
    let joined = join(read(&args.files.path)?);
    let plan = joined.send(&client, &args.files, &format!("&prune={}&dry_run=true", args.prune)).await?;
    let mut differs = false;
    for item in plan.items.iter().filter(|item| item.action != PlanAction::Unchanged) {
        differs = true;
        let name = format!("{} {}/{}", item.kind, item.namespace, item.name);
        let (before, after) = (item.before.as_deref().unwrap_or(""), item.after.as_deref().unwrap_or(""));
        let diff = TextDiff::from_lines(before, after);
        let header = (format!("{name} (effective)"), format!("{name} ({})", joined.file));
        say_stored(diff.unified_diff().header(&header.0, &header.1).to_string().trim_end());
    }
    if !differs {
        note("no difference");
    }
    plan.warnings.iter().for_each(|warning| note(&format!("WARNING: {warning}")));
    Ok(Exit::Ok)
}

pub(super) async fn get(args: &GetArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let mut query = format!("/configs?kind={}", encode(&kind(&args.kind)?));
    let Some(name) = &args.name else {
        if let Some(namespace) = &args.namespace {
            query.push_str(&format!("&namespace={}", encode(namespace)));
        }
        let found: Vec<wire::Config> = client.get_all(&query).await?;
        output::show(args.list.output, &found, |found| configs_table(found))?;
        if found.is_empty() && args.list.output == Format::Table {
            let remark = none(&client, &kind(&args.kind)?, args.namespace.as_deref()).await?;
            output::remark_if_empty(args.list.output, &found, &remark);
        }
        return Ok(Exit::Ok);
    };
    let found = find(&client, &args.kind, args.namespace.as_deref().unwrap_or("default"), name).await?;
    let found: wire::Config = client.get(&format!("/configs/{}", found.id)).await?;
    match args.list.output {
        Format::Json => output::show(Format::Json, &found, |_| String::new())?,
        Format::Table | Format::Yaml => {
            note(&format!(
                "# revision {} ({}) by {} at {}",
                found.revision, found.state, found.author, found.at
            ));
            say_stored(found.text.unwrap_or_default().trim_end());
        }
    }
    Ok(Exit::Ok)
}

/// What an empty listing says: a namespace is there for as long as something is in it.
async fn none(client: &Client, of_kind: &str, namespace: Option<&str>) -> Result<String, Failure> {
    let Some(namespace) = namespace else {
        return Ok("none yet; store some: credence apply -f FILE".to_owned());
    };
    let within = format!("?namespace={}&limit=1", encode(namespace));
    let documents: wire::Page<wire::Config> = client.get(&format!("/configs{within}")).await?;
    let proxies: wire::Page<wire::Proxy> = client.get(&format!("/proxies{within}")).await?;
    Ok(none_in(of_kind, namespace, documents.items.is_empty() && proxies.items.is_empty()))
}

fn none_in(of_kind: &str, namespace: &str, is_unknown: bool) -> String {
    match is_unknown {
        true => format!("there is no namespace {namespace}: no document and no proxy is in it"),
        false => {
            format!(
                "no {of_kind} in the namespace {namespace}; store some: credence apply -n {namespace} -f FILE"
            )
        }
    }
}

/// Kinds as people write them: `endpoints` and `proxyconfigs` are understood.
fn kind(text: &str) -> Result<String, Failure> {
    let lower = text.to_ascii_lowercase();
    ["ProxyConfig", "Endpoints"]
        .into_iter()
        .find(|known| {
            let known = known.to_ascii_lowercase();
            lower == known || lower == format!("{known}s")
        })
        .map(str::to_owned)
        .ok_or_else(|| {
            Failure::usage(format!("there is no kind {text:?}"), "kinds are ProxyConfig and Endpoints")
        })
}

async fn find(client: &Client, of_kind: &str, namespace: &str, name: &str) -> Result<wire::Config, Failure> {
    let of_kind = kind(of_kind)?;
    let query =
        format!("/configs?kind={}&namespace={}&name={}", encode(&of_kind), encode(namespace), encode(name));
    let page: wire::Page<wire::Config> = client.get(&query).await?;
    page.items.into_iter().next().ok_or_else(|| {
        let message = format!("{of_kind} {namespace}/{name} does not exist");
        Failure::new(Exit::NotFound, message, format!("\"credence get {of_kind}\" shows what there is"))
    })
}

fn configs_table(configs: &[wire::Config]) -> String {
    let rows = configs.iter().map(|one| {
        vec![
            one.namespace.clone(),
            one.name.clone(),
            one.revision.to_string(),
            one.state.clone(),
            one.author.clone(),
            one.at.clone(),
            one.reason.clone(),
        ]
    });
    output::table(&["namespace", "name", "revision", "state", "author", "at", "reason"], rows)
}

pub(super) async fn delete(args: &DeleteArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let NameArgs { kind, name, namespace } = &args.document;
    let found = find(&client, kind, namespace, name).await?;
    let path = format!("/configs/{}", found.id);
    if args.change.dry_run {
        return print_plan(&args.change, &client.delete(&format!("{path}{}", dry(&args.change))).await?);
    }
    may_go_on(&args.change, &format!("delete {} {namespace}/{name}?", found.kind))?;
    print_plan(&args.change, &client.delete(&path).await?)
}

pub(super) async fn history(args: &HistoryArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let NameArgs { kind: of_kind, name, namespace } = &args.document;
    let (of_kind, namespace, name) = (encode(&kind(of_kind)?), encode(namespace), encode(name));
    let path = format!("/history?kind={of_kind}&namespace={namespace}&name={name}");
    let revisions: Vec<wire::Config> = client.get_all(&path).await?;
    output::show(args.list.output, &revisions, |items| configs_table(items))?;
    Ok(Exit::Ok)
}

pub(super) async fn rollback(args: &RollbackArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let wanted = wire::Rollback {
        namespace: Some(args.document.namespace.clone()),
        kind: kind(&args.document.kind)?,
        name: args.document.name.clone(),
        to: args.to,
        dry_run: args.change.dry_run,
        reason: args.reason.clone(),
    };
    let plan: wire::Plan = client.post("/rollback", &wanted).await?;
    print_plan(&args.change, &plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: &str, text: &str) -> Source {
        Source { file: file.into(), text: text.into() }
    }

    #[test]
    fn an_empty_listing_names_the_namespace_and_whether_there_is_one() {
        let unknown = "there is no namespace nosuch: no document and no proxy is in it";
        assert_eq!(none_in("ProxyConfig", "nosuch", true), unknown);
        let empty = "no Endpoints in the namespace team-a; store some: credence apply -n team-a -f FILE";
        assert_eq!(none_in("Endpoints", "team-a", false), empty);
    }

    #[test]
    fn a_folder_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("b.yml"), "b: 1").unwrap();
        fs::write(path("a.yaml"), "a: 1").unwrap();
        fs::write(path("README.md"), "text").unwrap();
        fs::create_dir(path("old.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("editor.lock")).unwrap();
        std::os::unix::fs::symlink("ann@host.4711:1", path(".#a.yaml")).unwrap();
        let texts: Vec<String> =
            read(folder.path()).ok().unwrap().into_iter().map(|source| source.text).collect();
        assert_eq!(texts, ["a: 1", "b: 1"]);
        std::os::unix::fs::symlink("nowhere", path("c.yaml")).unwrap();
        let failure = read(folder.path()).err().expect("a link that leads nowhere is not passed over");
        assert!(failure.message.contains("c.yaml"), "{}", failure.message);
    }

    #[test]
    fn places_in_joined_texts_go_back_to_their_files() {
        let joined = join(vec![source("a.yaml", "a: 1\nb: 2"), source("b.yaml", "c: 3\nd: 4\n")]);
        assert_eq!(joined.text, "a: 1\nb: 2\n---\nc: 3\nd: 4\n");
        let check = |line: u32, expected: (&str, u32)| {
            let fault = api::problem::Fault {
                file: "all files".into(),
                line,
                column: 1,
                path: String::new(),
                value: String::new(),
                rule: "x".into(),
                message: "x".into(),
                fix: String::new(),
            };
            let failure = Failure { faults: vec![fault], ..Failure::new(Exit::Failed, "", "") };
            let fault = joined.unjoin(failure).faults.remove(0);
            assert_eq!((fault.file.as_str(), fault.line), expected, "{line}");
        };
        check(1, ("a.yaml", 1));
        check(2, ("a.yaml", 2));
        check(4, ("b.yaml", 1));
        check(5, ("b.yaml", 2));
    }

    #[test]
    fn plans_say_whom_they_change_and_what_to_read() {
        let item = wire::PlanItem {
            action: PlanAction::Create,
            kind: "Endpoints".into(),
            namespace: "default".into(),
            name: "api".into(),
            before: None,
            after: Some(String::new()),
        };
        let plan = wire::Plan {
            dry_run: true,
            items: vec![item],
            nodes: vec!["web-1".into()],
            warnings: vec!["plaintext to 10.0.0.1".into()],
            revisions: Vec::new(),
            prune_up_to: None,
        };
        let text = plan_table(&plan);
        for words in ["create", "would change 1 proxy: web-1", "WARNING: plaintext", "nothing was changed"] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn kinds_are_read_as_people_write_them() {
        for (text, expected) in
            [("endpoints", "Endpoints"), ("proxyconfigs", "ProxyConfig"), ("ProxyConfig", "ProxyConfig")]
        {
            assert_eq!(kind(text).unwrap(), expected);
        }
        assert_eq!(kind("pod").unwrap_err().exit, Exit::Usage);
    }
}
