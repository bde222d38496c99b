//! `check`: documents and `credence.yaml`, without a server. The code is that of `apply` and `serve`.

use std::path::Path;

use api::{problem::Fault, rest::MAX_BODY_BYTES};
use serde::Serialize;
use spiffe::{Namespace, TrustDomain};
use xds::{
    catalog,
    model::{self, Document, Problem, Scope},
    validate::Context,
};

use super::documents::{Source, read};
use crate::{
    cli::{CheckArgs, Format},
    config::{self, Config, ConfigProblem, DefaultMtls},
    output::{self, Exit, Failure, count, note, place, say},
};

/// What was found, for programs.
#[derive(Debug, Default, Serialize)]
struct Report {
    files: usize,
    documents: usize,
    problems: Vec<Fault>,
    warnings: Vec<Fault>,
}

pub(super) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let report = check(args)?;
    if args.output != Format::Table {
        output::show(args.output, &report, |_| String::new())?;
    } else {
        for fault in &report.problems {
            note(&format!("credence: error: {}", place(fault)));
            if !fault.fix.is_empty() {
                note(&format!("credence: hint: {}", fault.fix));
            }
        }
        report.warnings.iter().for_each(|fault| note(&format!("credence: WARNING: {}", place(fault))));
        let files = count(report.files, "file", "files");
        match (report.problems.len(), report.documents) {
            (0, 0) => say(&format!("valid: {files}")),
            (0, documents) => {
                say(&format!("valid: {files} with {}", count(documents, "document", "documents")));
            }
            (problems, _) => {
                note(&format!("credence: {} in {files}", count(problems, "problem", "problems")));
            }
        }
    }
    Ok(if report.problems.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn check(args: &CheckArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    let namespace = Namespace::parse(&args.namespace)
        .map_err(|error| Failure::usage(format!("namespace: {error}"), "correct -n"))?;
    let scope = Scope { namespace, ..Scope::default() };
    let (mut documents, mut config, mut texts) = (Vec::new(), None, Vec::new());
    let mut holds_config = false;
    for path in &args.files {
        for source in read(path)? {
            report.files += 1;
            if is_config(&source.text) {
                holds_config = true;
                config = read_config(&source, path, &mut report).or(config);
                continue;
            }
            if source.text.len() > MAX_BODY_BYTES {
                report.problems.push(too_long(&source.file));
            }
            match model::parse_in(&scope, &source.file, &source.text) {
                Ok(found) if found.is_empty() => report.warnings.push(empty(&source.file)),
                Ok(found) => documents.extend(found),
                Err(problems) => report.problems.extend(problems.0.into_iter().map(fault)),
            }
            texts.push(source.text);
        }
    }
    // With the lines between them that join them to one.
    let all: usize = texts.iter().map(|text| text.len() + 5).sum();
    if texts.len() > 1 && all > MAX_BODY_BYTES && texts.iter().all(|text| text.len() <= MAX_BODY_BYTES) {
        let file = format!("all {} files", texts.len());
        report.warnings.push(Fault { line: 0, column: 0, ..too_long(&file) });
    }
    report.documents = documents.len();
    if documents.is_empty() && !holds_config {
        // Whoever checks something means something.
        report.problems.append(&mut report.warnings);
    }
    // Rules over all documents need every one of them.
    if report.problems.is_empty() && !documents.is_empty() {
        check_whole(documents, context(args, config, &texts)?, &mut report);
    }
    Ok(report)
}

fn check_whole(documents: Vec<Document>, context: Context, report: &mut Report) {
    match catalog::check(documents, context) {
        Ok(warnings) => report.warnings.extend(warnings.into_iter().map(|warning| fault(warning.0))),
        Err(problems) => report.problems.extend(problems.0.into_iter().map(fault)),
    }
}

/// What of a text is to be said that no server takes in one call.
fn too_long(file: &str) -> Fault {
    let message = format!("longer than {MAX_BODY_BYTES} bytes, more than is applied at once");
    of_file(file, "limit.text", &message, "split it into several files, and apply them one after another")
}

/// What of a file that holds nothing is to be said.
fn empty(file: &str) -> Fault {
    let fix = "name another file, or write a document into it: docs/reference/documents.md";
    of_file(file, "empty", "the file holds no document", fix)
}

/// What is to be said of a whole file.
fn of_file(file: &str, rule: &str, message: &str, fix: &str) -> Fault {
    Fault {
        file: file.to_owned(),
        line: 1,
        column: 1,
        path: String::new(),
        value: String::new(),
        rule: rule.into(),
        message: message.into(),
        fix: fix.into(),
    }
}

/// A configuration has no kind, and names a trust domain at its first level.
fn is_config(text: &str) -> bool {
    let has = |key: &str| text.lines().any(|line| line.starts_with(key));
    has("trust_domain") || (!has("kind") && !has("{") && (has("server:") || has("storage:")))
}

fn read_config(source: &Source, path: &Path, report: &mut Report) -> Option<Config> {
    let base = path.parent().unwrap_or(Path::new("."));
    // What `serve` would read here.
    let overlay = config::environment(std::env::vars_os());
    match config::parse(&source.file, &source.text, &overlay, base, false) {
        Ok(config) => Some(config),
        Err(problems) => {
            report.problems.extend(problems.into_iter().map(config_fault));
            None
        }
    }
}

fn context(args: &CheckArgs, config: Option<Config>, texts: &[String]) -> Result<Context, Failure> {
    if let Some(name) = &args.trust_domain {
        let domain = TrustDomain::parse(name)
            .map_err(|error| Failure::usage(format!("--trust-domain: {error}"), "write prod.example"))?;
        return Ok(Context::strict(domain));
    }
    let beside = || {
        let text = std::fs::read_to_string("credence.yaml").ok()?;
        config::parse("credence.yaml", &text, &[], Path::new("."), false).ok()
    };
    if let Some(config) = config.or_else(beside) {
        let mut context = Context::strict(config.trust_domain.clone());
        context.defaults.mtls = match config.default_mtls {
            DefaultMtls::Strict => model::MtlsMode::Strict,
            DefaultMtls::Permissive => model::MtlsMode::Permissive,
            DefaultMtls::Off => model::MtlsMode::Off,
        };
        context.own_addresses = config.own_addresses();
        return Ok(context);
    }
    let named = texts.iter().find_map(|text| first_domain(text));
    let fallback = || TrustDomain::parse("example.org").expect("a constant name parses");
    Ok(Context::strict(named.unwrap_or_else(fallback)))
}

/// The trust domain of the first SPIFFE ID in a text.
fn first_domain(text: &str) -> Option<TrustDomain> {
    let (_, rest) = text.split_once("spiffe://")?;
    let end =
        rest.find(|c: char| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')).unwrap_or(rest.len());
    TrustDomain::parse(&rest[..end]).ok()
}

fn fault(problem: Problem) -> Fault {
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

fn config_fault(problem: ConfigProblem) -> Fault {
    let (line, column) = problem.place.unwrap_or((0, 0));
    Fault {
        file: problem.source_name,
        line: u32::try_from(line).unwrap_or(0),
        column: u32::try_from(column).unwrap_or(0),
        path: problem.path,
        value: String::new(),
        rule: "config".into(),
        message: problem.message,
        fix: problem.hint.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(files: &[(&str, &str)]) -> Report {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let files = files.iter().map(|(name, _)| directory.path().join(name)).collect();
        let (namespace, output) = ("default".into(), Format::Table);
        check(&CheckArgs { files, namespace, trust_domain: None, output }).unwrap()
    }

    const EXAMPLE: &str = include_str!("../../../docs/examples/web-and-payments.yaml");

    #[test]
    fn accepts_the_example_and_warns_of_nothing_on_loopback() {
        let report = report(&[("web.yaml", EXAMPLE)]);
        assert_eq!((report.files, report.documents), (1, 3));
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }

    #[test]
    fn names_file_line_and_column_of_problems_in_documents_and_configuration() {
        let broken = EXAMPLE.replace("cluster: application", "cluster: nowhere");
        let found = report(&[("web.yaml", &broken)]);
        let fault = &found.problems[0];
        assert!(fault.file.ends_with("web.yaml") && fault.line > 60 && fault.column > 1, "{fault:?}");
        assert_eq!(fault.value, "nowhere");
        let found = report(&[("credence.yaml", "trust_domain: Prod.Example\nserfer: {}\n")]);
        assert!(found.problems.len() >= 2, "{:?}", found.problems);
        assert!(found.problems.iter().all(|fault| fault.line > 0 && !fault.message.is_empty()));
    }

    #[test]
    fn says_of_a_file_that_it_holds_no_document() {
        for text in ["", "\n", "# later\n", "---\n"] {
            let found = report(&[("web.yaml", text)]);
            assert!(
                found.problems[0].message.contains("holds no document"),
                "{text:?}: {:?}",
                found.problems
            );
        }
        // Beside others it is one to be looked at.
        let found = report(&[("web.yaml", EXAMPLE), ("later.yaml", "# later\n")]);
        assert!(found.problems.is_empty() && found.warnings[0].file.ends_with("later.yaml"), "{found:?}");
        let found = report(&[("credence.yaml", "trust_domain: prod.example\n")]);
        assert!(found.problems.is_empty() && found.warnings.is_empty(), "{found:?}");
    }

    /// The YAML blocks of a page.
    fn blocks(page: &str) -> Vec<String> {
        let block = |rest: &str| rest.split("```").next().unwrap_or_default().to_owned();
        page.split("```yaml\n").skip(1).map(block).collect()
    }

    #[test]
    fn accepts_every_document_of_the_reference_and_of_the_examples() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let page = std::fs::read_to_string(docs.join("reference/documents.md")).unwrap();
        let mut texts = blocks(&page);
        assert!(texts.len() > 3, "{} examples", texts.len());
        for entry in std::fs::read_dir(docs.join("examples")).unwrap() {
            texts.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
        }
        for text in texts {
            let report = report(&[("example.yaml", &text)]);
            assert!(report.documents > 0 && report.problems.is_empty(), "{text}\n{:?}", report.problems);
        }
    }

    #[test]
    fn the_reference_names_every_field() {
        /// Every name among the properties of a schema.
        fn names(schema: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
            if let Some(properties) = schema["properties"].as_object() {
                found.extend(properties.keys().cloned());
            }
            let below = schema.as_object().map(|map| map.values().collect::<Vec<_>>());
            for value in below.or_else(|| Some(schema.as_array()?.iter().collect())).unwrap_or_default() {
                names(value, found);
            }
        }
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
        let page = std::fs::read_to_string(docs.join("documents.md")).unwrap();
        let mut found = std::collections::BTreeSet::new();
        names(&model::schema(), &mut found);
        assert!(found.len() > 50, "{found:?}");
        let is_told =
            |name: &String| page.contains(&format!("`{name}`")) || page.contains(&format!(".{name}`"));
        let missing: Vec<&String> = found.iter().filter(|name| !is_told(name)).collect();
        assert!(missing.is_empty(), "docs/reference/documents.md does not tell of {missing:?}");
    }

    #[test]
    fn takes_the_domain_that_documents_name() {
        assert_eq!(first_domain("a: spiffe://prod.example/web").unwrap().as_str(), "prod.example");
        assert_eq!(first_domain("a: 1"), None);
    }
}
