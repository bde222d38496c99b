//! Paths of fields, as text for people and as an index of places.

use std::collections::HashMap;

use crate::text::Position;

/// What others wrote, short enough for a path or a line of an error.
pub(crate) fn shortened(text: &str) -> String {
    const LIMIT: usize = 128;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Appends a step: a name after a dot, or `[index]` as it is.
pub(crate) fn push(path: &mut String, step: &str) {
    if !path.is_empty() && !step.starts_with('[') {
        path.push('.');
    }
    path.push_str(step);
}

/// Where each field of a parsed message stands, by the paths that [`crate::pgv`] reports. A tree, so that deep
/// texts cost no more than long ones.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    children: HashMap<(usize, Box<str>), usize>,
    places: Vec<Position>,
}

impl Positions {
    /// The whole text.
    pub(crate) const ROOT: usize = 0;

    pub(crate) fn new(root: Position) -> Self {
        Self { children: HashMap::new(), places: vec![root] }
    }

    /// Adds a step below a place, and names the new one.
    pub(crate) fn add(&mut self, parent: usize, step: &str, position: Position) -> usize {
        self.places.push(position);
        self.children.insert((parent, step.into()), self.places.len() - 1);
        self.places.len() - 1
    }

    /// The position of a path, or of the nearest part of it that the text has: a rule about an absent field is
    /// reported at the message that lacks it.
    pub fn find(&self, path: &str) -> Option<Position> {
        let (mut at, mut rest) = (Self::ROOT, path);
        while let Some((next, after)) = self.step(at, rest) {
            (at, rest) = (next, after);
        }
        self.places.get(at).copied()
    }

    /// The place of the first step, and what follows it. A map key may hold any character: what closes it is found
    /// by looking the key up.
    fn step<'a>(&self, at: usize, path: &'a str) -> Option<(usize, &'a str)> {
        let path = path.strip_prefix('.').unwrap_or(path);
        let ends: Vec<usize> = if path.starts_with('[') {
            path.match_indices(']').map(|(end, _)| end + 1).collect()
        } else {
            vec![path.find(['.', '[']).unwrap_or(path.len())]
        };
        ends.into_iter().find_map(|end| {
            let (step, rest) = path.split_at(end);
            self.children.get(&(at, step.into())).map(|place| (*place, rest))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_longest_known_part() {
        let at = |line| Position { line, column: 1 };
        let mut positions = Positions::new(at(1));
        let map = positions.add(Positions::ROOT, "map", at(2));
        let key = positions.add(map, "[a.b]c[0]]", at(3));
        positions.add(key, "name", at(4));
        for (path, line) in [
            ("", 1),
            ("other.name", 1),
            ("map", 2),
            ("map[a]", 2),
            ("map[a.b]c[0]]", 3),
            ("map[a.b]c[0]].name", 4),
            ("map[a.b]c[0]].name.more[3]", 4),
            ("map[a.b]c[0]].other", 3),
        ] {
            assert_eq!(positions.find(path), Some(at(line)), "{path}");
        }
        assert_eq!(Positions::default().find("a"), None);
    }

    #[test]
    fn shortens_at_a_character() {
        assert_eq!(shortened("ä"), "ä");
        assert_eq!(shortened(&"ä".repeat(200)), format!("{}...", "ä".repeat(128)));
    }
}
