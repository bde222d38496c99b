//! Text to trees: every document of a YAML stream (JSON is YAML), with the place of every value. Bounded, so that
//! no text costs more memory than a fixed multiple of its length.

use std::{collections::HashMap, sync::Arc};

use serde_saphyr::granit_parser::{
    self as yaml, ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, StrInput,
};

use super::{
    Problem,
    node::{Content, Node, Place},
};

/// The longest document in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// The most documents in one text.
pub const MAX_DOCUMENTS: usize = 1_000;
/// The most values in one document, those that aliases repeat counted each time.
pub const MAX_VALUES: usize = 200_000;
/// The deepest nesting of lists and mappings.
pub const MAX_DEPTH: usize = 32;
/// Reading stops after so many problems.
const MAX_PROBLEMS: usize = 100;

/// The documents that have content, and all problems of syntax.
pub(super) fn read(file: &Arc<str>, text: &str) -> (Vec<Node>, Vec<Problem>) {
    let mut reading = Reading { file, problems: Vec::new() };
    let mut documents = Vec::new();
    let mut options = yaml::Options::default();
    options.emit_comments = false;
    options.flow_nesting_limit = MAX_DEPTH * 2;
    options.block_nesting_limit = MAX_DEPTH * 2;
    let mut parser = Parser::new_from_str_with_options(text, options);
    loop {
        match reading.document(&mut parser, text) {
            Ok(None) => break,
            Ok(Some(node)) if node.is_null() => {}
            Ok(Some(node)) => documents.push(node),
            Err(Stop) => match parser.proceed_next_document() {
                Ok(true) if reading.problems.len() < MAX_PROBLEMS => {}
                _ => break,
            },
        }
        if documents.len() > MAX_DOCUMENTS {
            let place = documents.pop().map_or(START, |extra| extra.place);
            let message = format!("more than {MAX_DOCUMENTS} documents in one text");
            reading.problem(place, "limit.documents", message, "split the text into several files");
            break;
        }
    }
    (documents, reading.problems)
}

const START: Place = Place { line: 1, column: 1 };

/// The document has a problem that was recorded.
struct Stop;

struct Reading<'a> {
    file: &'a Arc<str>,
    problems: Vec<Problem>,
}

/// What one document has used up, and its anchors.
struct Budget {
    values: usize,
    anchors: HashMap<usize, (Node, usize)>,
}

type Events<'a> = Parser<'a, StrInput<'a>>;

impl Reading<'_> {
    /// The next document; `None` at the end of the text.
    fn document(&mut self, events: &mut Events<'_>, text: &str) -> Result<Option<Node>, Stop> {
        loop {
            let Some((event, span)) = self.next(events)? else { return Ok(None) };
            match event {
                Event::StreamEnd => return Ok(None),
                Event::StreamStart | Event::DocumentEnd | Event::DocumentStart(..) => {}
                first => {
                    let from = span.start.byte_offset().unwrap_or(0);
                    let mut budget = Budget { values: 0, anchors: HashMap::new() };
                    let node = self.value(events, first, place(&span.start), 0, &mut budget)?;
                    let to = self.end(events, text)?;
                    if to.saturating_sub(from) > MAX_DOCUMENT_BYTES {
                        let message = format!("document is longer than {MAX_DOCUMENT_BYTES} bytes");
                        return self.stop(
                            node.place,
                            "limit.bytes",
                            message,
                            "split it into several documents",
                        );
                    }
                    return Ok(Some(node));
                }
            }
        }
    }

    /// Reads up to the end of the document, and says where that is.
    fn end(&mut self, events: &mut Events<'_>, text: &str) -> Result<usize, Stop> {
        loop {
            match self.next(events)? {
                Some((Event::DocumentEnd, span)) => {
                    return Ok(span.start.byte_offset().unwrap_or(text.len()));
                }
                None => return Ok(text.len()),
                Some(_) => {}
            }
        }
    }

    fn next<'t>(&mut self, events: &mut Events<'t>) -> Result<Option<(Event<'t>, yaml::Span)>, Stop> {
        match events.next_event() {
            None => Ok(None),
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(error)) => self.syntax(&error),
        }
    }

    fn syntax<T>(&mut self, error: &ScanError) -> Result<T, Stop> {
        let hint = match error.kind() {
            // The parser looks ahead of what we read, and has a limit of its own behind ours.
            ErrorKind::RecursionLimitExceeded => return self.too_deep(place(error.marker())),
            ErrorKind::UnknownAnchor | ErrorKind::MissingAnchorOrAliasName => {
                "a word that begins with * or & needs quotes, such as \"*\" or \"*.example.com\""
            }
            _ => "check indentation, quotes and brackets near this place",
        };
        self.stop(place(error.marker()), "syntax", format!("not YAML: {}", error.info()), hint)
    }

    fn too_deep<T>(&mut self, place: Place) -> Result<T, Stop> {
        let message = format!("nested deeper than {MAX_DEPTH} levels");
        self.stop(
            place,
            "limit.depth",
            message,
            "no field of a document is that deep: close what was opened before",
        )
    }

    /// The value that begins with `event`.
    fn value(
        &mut self,
        events: &mut Events<'_>,
        event: Event<'_>,
        place: Place,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Node, Stop> {
        if depth > MAX_DEPTH {
            return self.too_deep(place);
        }
        if let Some(tag) = event.tag() {
            let message = format!("tag {}{} is not used in documents", tag.handle(), tag.suffix());
            return self.stop(
                place,
                "syntax.tag",
                message,
                "remove the tag, and quote the value to make it text",
            );
        }
        self.spend(budget, 1, place)?;
        let before = budget.values;
        let (anchor, content) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                (anchor, Content::Scalar { text: text.into_owned(), plain })
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.list(events, depth, budget)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping(events, place, depth, budget)?),
            Event::Alias(anchor) => {
                let size = budget.anchors.get(&anchor).map_or(0, |(_, size)| *size);
                self.spend(budget, size, place)?;
                return match budget.anchors.get(&anchor) {
                    Some((node, _)) => Ok(node.moved_to(place)),
                    None => self.stop(place, "syntax", "alias stands inside its own anchor".into(), ""),
                };
            }
            _ => return self.stop(place, "syntax", "a value is expected here".into(), ""),
        };
        let node = Node { place, content };
        if anchor != 0 {
            // Bounded by the values themselves: each anchored one is copied once for every anchor around it.
            let size = budget.values - before + 1;
            self.spend(budget, size, place)?;
            budget.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn list(&mut self, events: &mut Events<'_>, depth: usize, budget: &mut Budget) -> Result<Content, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next(events)? {
                None | Some((Event::SequenceEnd, _)) => return Ok(Content::List(items)),
                Some((event, span)) => {
                    items.push(self.value(events, event, place(&span.start), depth + 1, budget)?);
                }
            }
        }
    }

    fn mapping(
        &mut self,
        events: &mut Events<'_>,
        at: Place,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Content, Stop> {
        let mut fields: Vec<(String, Place, Node)> = Vec::new();
        let mut seen: HashMap<String, Place> = HashMap::new();
        loop {
            let (key, key_place) = match self.next(events)? {
                None | Some((Event::MappingEnd, _)) => return Ok(Content::Map(fields)),
                Some((Event::Scalar(text, ..), span)) => (text.into_owned(), place(&span.start)),
                Some((_, span)) => {
                    let message = "a key is a plain word, not a list, mapping or alias".to_owned();
                    return self.stop(place(&span.start), "syntax.key", message, "");
                }
            };
            let Some((event, span)) = self.next(events)? else {
                return self.stop(at, "syntax", "mapping has no end".into(), "");
            };
            let mut value_place = place(&span.start);
            if event.is_node() && span.is_empty() {
                value_place = key_place; // nothing was written: the key is the place
            }
            let value = self.value(events, event, value_place, depth + 1, budget)?;
            match seen.get(&key) {
                Some(first) => {
                    let message = format!("field {key:?} is given twice, first in line {}", first.line);
                    self.problem(key_place, "duplicate-key", message, "keep one of the two");
                }
                None => {
                    seen.insert(key.clone(), key_place);
                    fields.push((key, key_place, value));
                }
            }
        }
    }

    fn spend(&mut self, budget: &mut Budget, values: usize, place: Place) -> Result<(), Stop> {
        budget.values = budget.values.saturating_add(values);
        if budget.values <= MAX_VALUES {
            return Ok(());
        }
        let message = format!("document has more than {MAX_VALUES} values, repeated ones included");
        self.stop(place, "limit.values", message, "split it into several documents")
    }

    fn stop<T>(&mut self, place: Place, rule: &str, message: String, hint: &str) -> Result<T, Stop> {
        self.problem(place, rule, message, hint);
        Err(Stop)
    }

    fn problem(&mut self, place: Place, rule: &str, message: String, hint: &str) {
        self.problems.push(Problem {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            path: String::new(),
            value: String::new(),
            rule: rule.to_owned(),
            message,
            hint: hint.to_owned(),
        });
    }
}

fn place(marker: &Marker) -> Place {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Place { line: count(marker.line()), column: count(marker.col()).saturating_add(1) }
}
