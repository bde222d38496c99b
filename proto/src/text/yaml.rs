//! YAML 1.2 to a tree, from the parser's events. Without recursion, so that deep text costs no stack, and with a
//! bound on everything. Plain scalars follow the core schema; JSON is a part of it.

use std::collections::{HashMap, HashSet};

use serde_json::Number;
use serde_saphyr::granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::tree::{Content, Key, Node};
use super::{MAX_BYTES, MAX_COPIED, MAX_DEPTH, MAX_NODES, Position, Problem, Reason};
use crate::path::shortened;

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    if text.len() > MAX_BYTES {
        return Err(problem(None, Reason::TooLong { found: text.len() }));
    }
    let mut build = Build::default();
    let options = serde_saphyr::granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: 2 * MAX_DEPTH,
        block_nesting_limit: 2 * MAX_DEPTH,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) =
            event.map_err(|error| problem(Some(position(error.marker())), unreadable(&error)))?;
        let at = Some(position(&span.start));
        build.event(event, at).map_err(|reason| problem(at, reason))?;
    }
    Ok(build.root.unwrap_or(Node { position: None, content: Content::Null }))
}

fn problem(position: Option<Position>, reason: Reason) -> Problem {
    Problem { path: String::new(), position, reason }
}

fn unreadable(error: &ScanError) -> Reason {
    match error.kind() {
        // The parser looks ahead of its events, so that this may come before our own count.
        ErrorKind::RecursionLimitExceeded => Reason::TooDeep,
        _ => Reason::Syntax(error.info()),
    }
}

fn position(marker: &Marker) -> Position {
    let number = |count| u64::try_from(count).unwrap_or(u64::MAX);
    Position { line: number(marker.line()), column: number(marker.col()).saturating_add(1) }
}

/// A list or map that has begun.
struct Open {
    anchor: usize,
    position: Option<Position>,
    /// Of what is inside so far.
    size: Size,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, names: HashSet<String>, key: Option<Key> },
}

/// What a copy of a value costs.
#[derive(Clone, Copy, Default)]
struct Size {
    weight: usize,
    depth: usize,
}

#[derive(Default)]
struct Build {
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Size)>,
    nodes: usize,
    copied: usize,
    root: Option<Node>,
    documents: usize,
}

impl Build {
    fn event(&mut self, event: Event<'_>, at: Option<Position>) -> Result<(), Reason> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Reason::Syntax("more than one document".to_owned()));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.takes_key() {
                    return self.key(Key { position: at, name: text.into_owned() });
                }
                self.count()?;
                let size = Size { weight: 1 + text.len() / 32, depth: 0 };
                let content = scalar(&text, style, tag.as_deref())?;
                self.complete(Node { position: at, content }, anchor, size)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(anchor, tag.as_deref(), "seq", at, OpenContent::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let map = OpenContent::Map { entries: Vec::new(), names: HashSet::new(), key: None };
                self.begin(anchor, tag.as_deref(), "map", at, map)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let content = match open.content {
                    OpenContent::List(items) => Content::List(items),
                    OpenContent::Map { entries, .. } => Content::Map(entries),
                };
                let size = Size { weight: open.size.weight + 1, depth: open.size.depth + 1 };
                self.complete(Node { position: open.position, content }, open.anchor, size)
            }
            Event::Alias(anchor) => self.copy(anchor, at),
            _ => Ok(()),
        }
    }

    fn takes_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: OpenContent::Map { key: None, .. }, .. }))
    }

    fn key(&mut self, key: Key) -> Result<(), Reason> {
        self.count()?;
        if let Some(Open { content: OpenContent::Map { names, key: slot, .. }, .. }) = self.open.last_mut() {
            if !names.insert(key.name.clone()) {
                return Err(Reason::Twice { name: shortened(&key.name) });
            }
            *slot = Some(key);
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Reason> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(Reason::TooMany { limit: MAX_NODES }) } else { Ok(()) }
    }

    fn begin(
        &mut self,
        anchor: usize,
        tag: Option<&Tag>,
        natural: &str,
        position: Option<Position>,
        content: OpenContent,
    ) -> Result<(), Reason> {
        self.count()?;
        if self.takes_key() {
            return Err(Reason::Syntax("a key must be a text".to_owned()));
        }
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema_tag(natural)) {
            return Err(refused_tag());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(Reason::TooDeep);
        }
        self.open.push(Open { anchor, position, size: Size::default(), content });
        Ok(())
    }

    /// Puts a finished value into what is open.
    fn complete(&mut self, node: Node, anchor: usize, size: Size) -> Result<(), Reason> {
        if anchor != 0 {
            // Kept for aliases, which is a copy too.
            self.charge(size)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size.weight = open.size.weight.saturating_add(size.weight);
        open.size.depth = open.size.depth.max(size.depth);
        match &mut open.content {
            OpenContent::List(items) => items.push(node),
            OpenContent::Map { entries, key, .. } => entries.extend(key.take().map(|key| (key, node))),
        }
        Ok(())
    }

    fn copy(&mut self, anchor: usize, at: Option<Position>) -> Result<(), Reason> {
        if self.takes_key() {
            return Err(Reason::Syntax("a key must be a text".to_owned()));
        }
        let Some((_, size)) = self.anchors.get(&anchor) else {
            return Err(Reason::Syntax("alias to a value that is not complete".to_owned()));
        };
        let size = *size;
        self.charge(size)?;
        if self.open.len() + size.depth > MAX_DEPTH {
            return Err(Reason::TooDeep);
        }
        let Some((node, _)) = self.anchors.get(&anchor) else { return Ok(()) };
        let node = Node { position: at, content: node.content.clone() };
        self.complete(node, 0, size)
    }

    fn charge(&mut self, size: Size) -> Result<(), Reason> {
        self.copied = self.copied.saturating_add(size.weight);
        if self.copied > MAX_COPIED { Err(Reason::TooMany { limit: MAX_COPIED }) } else { Ok(()) }
    }
}

fn refused_tag() -> Reason {
    Reason::Syntax("a tag that has no meaning here".to_owned())
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Content, Reason> {
    let is_plain = match tag {
        None => style == ScalarStyle::Plain,
        Some(tag) if tag.is_yaml_core_schema_tag("str") => false,
        Some(tag) => {
            let is_known =
                ["null", "bool", "int", "float"].iter().any(|kind| tag.is_yaml_core_schema_tag(kind));
            if !is_known {
                return Err(refused_tag());
            }
            true
        }
    };
    Ok(if is_plain { plain(text) } else { Content::Text(text.to_owned()) })
}

/// YAML 1.2.2 section 10.3.2.
fn plain(text: &str) -> Content {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Content::Null,
        "true" | "True" | "TRUE" => return Content::Bool(true),
        "false" | "False" | "FALSE" => return Content::Bool(false),
        // What JSON has no number for, the JSON mapping writes as text.
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Content::Text("Infinity".to_owned());
        }
        "-.inf" | "-.Inf" | "-.INF" => return Content::Text("-Infinity".to_owned()),
        ".nan" | ".NaN" | ".NAN" => return Content::Text("NaN".to_owned()),
        _ => {}
    }
    number(text).map_or_else(|| Content::Text(text.to_owned()), Content::Number)
}

fn number(text: &str) -> Option<Number> {
    let radix = |digits: &str, base| {
        let is_digits = digits.chars().all(|digit| digit.is_digit(base));
        is_digits.then(|| u64::from_str_radix(digits, base).ok().map(Number::from)).flatten()
    };
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && unsigned.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if !is_number {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    text.parse::<i64>()
        .map(Number::from)
        .or_else(|_| text.parse::<u64>().map(Number::from))
        .ok()
        .or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64))
}
