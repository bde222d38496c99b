//! The section `edges`: what whoever manages the server over the network may have it run on its host, and no more.

use std::path::{Path, PathBuf};

use proto::text::{Content, Node};

use super::{
    Config,
    read::{Reader, Section, kind},
};

/// The most programs.
const MAX_COMMANDS: usize = 16;

impl Config {
    /// The section; nothing if there are no programs.
    pub(super) fn edges_to_yaml(&self) -> String {
        let quoted = |path: &Path| serde_json::to_string(&path.to_string_lossy()).unwrap_or_default();
        let commands: Vec<String> = self.dns_commands.iter().map(|path| quoted(path)).collect();
        if commands.is_empty() {
            return String::new();
        }
        format!("edges:\n  dns_commands: [{}]\n\n", commands.join(", "))
    }
}

impl Reader<'_> {
    /// The programs that publish TXT records, each by its absolute path.
    pub(super) fn edges(&mut self, top: &mut Section<'_>) -> Vec<PathBuf> {
        let mut section = self.sub(top, "edges");
        let path = section.path_of("dns_commands");
        let node = section.take("dns_commands");
        self.close(section);
        let Some(node) = node else { return Vec::new() };
        let Content::List(items) = &node.content else {
            self.refuse(node, &path, format!("expected a list of paths, found {}", kind(node)), None);
            return Vec::new();
        };
        if items.len() > MAX_COMMANDS {
            self.refuse(node, &path, format!("{} are too many, at most {MAX_COMMANDS}", items.len()), None);
        }
        let mut commands = Vec::new();
        for (index, item) in items.iter().take(MAX_COMMANDS).enumerate() {
            let path = format!("{path}[{index}]");
            let Some(text) = self.text(item, &path) else { continue };
            if text.starts_with('/') {
                commands.push(PathBuf::from(text));
            } else {
                let hint = Some("write such as /usr/local/bin/publish-txt".to_owned());
                self.refuse(item, &path, "a program is named by its absolute path, without arguments", hint);
            }
        }
        commands
    }

    /// As with hooks: what is run inherits the descriptors that the server was started with.
    pub(super) fn edges_get_no_descriptor(&mut self, config: &Config) {
        if config.dns_commands.is_empty() {
            return;
        }
        if let Some(path) = config.descriptor_of_a_secret() {
            let node = Node { position: None, content: Content::Null };
            let problem = format!("programs would inherit {}, which secrets are read from", path.display());
            let hint = "read the secret from a file that only the server may read".to_owned();
            self.refuse(&node, "edges.dns_commands", problem, Some(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn read(edges: &str) -> Result<Config, Vec<String>> {
        let text = format!("trust_domain: td\nedges: {edges}\n");
        parse("f", &text, &[], Path::new("/x"), false)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn programs_are_absolute_paths_and_come_back_as_they_were_written() {
        let config = read("{dns_commands: [/usr/local/bin/publish-txt]}").unwrap();
        assert_eq!(config.dns_commands, [PathBuf::from("/usr/local/bin/publish-txt")]);
        assert_eq!(config.edges_to_yaml(), "edges:\n  dns_commands: [\"/usr/local/bin/publish-txt\"]\n\n");
        assert!(read("{}").unwrap().dns_commands.is_empty());
        let refused = |edges: &str, expected: &str| {
            let problems = read(edges).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{problems:?}");
        };
        refused("{dns_commands: [publish]}", "absolute path");
        refused("{dns_commands: publish}", "expected a list");
        refused("{dns_command: [/bin/true]}", "unknown key");
    }
}
