//! The section `hooks`: who is told of what must surprise nobody, and how.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use certs::format_duration;
use http::Uri;
use proto::text::{Content, Node};

use super::{
    Config, KekSource,
    read::{Reader, Section, kind},
};
use crate::hooks::Topic;

/// The most hooks.
const MAX_HOOKS: usize = 16;
/// The longest name.
const MAX_NAME: usize = 64;
/// The most words of a command, and the longest of them.
const MAX_WORDS: usize = 32;
const MAX_WORD: usize = 4096;
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest: `hook test` waits for the hook, and the management port answers every call within ten seconds.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(8);

/// How a hook is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookTarget {
    /// A program and its arguments, without a shell; the JSON comes in on standard input.
    Command(Vec<String>),
    /// An address that the JSON is posted to.
    Url {
        /// Which; `https` only.
        url: Uri,
        /// The certificates that vouch for it.
        ca_file: PathBuf,
    },
}

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookConfig {
    /// Its name in commands, metrics and the audit log.
    pub name: String,
    /// What it hears of.
    pub topics: BTreeSet<Topic>,
    /// How it is told.
    pub target: HookTarget,
    /// How long one telling may take. Default 5 s.
    pub timeout: Duration,
    /// How long a barrier or a failing issuer may last before it hears of it. Default: 30 minutes for `activate`, 25
    /// hours for `finish`, 10 minutes for an issuer.
    pub after: Option<Duration>,
}

impl Config {
    /// The programs that the server runs by itself, each with what it is for.
    pub fn programs(&self) -> impl Iterator<Item = (String, &Path)> {
        let hooks = self.hooks.iter().filter_map(|hook| match &hook.target {
            HookTarget::Command(words) => Some((format!("hook {}", hook.name), Path::new(words.first()?))),
            HookTarget::Url { .. } => None,
        });
        hooks.chain(
            self.dns_commands.iter().map(|program| ("edges.dns_commands".to_owned(), program.as_path())),
        )
    }

    /// A descriptor that a secret is read from, if one is: whatever is run would inherit it.
    pub(super) fn descriptor_of_a_secret(&self) -> Option<&PathBuf> {
        let sources = self.kek.iter().chain(self.slots.iter().map(|slot| &slot.source));
        sources.flat_map(KekSource::secret_files).find(|path| is_descriptor(path))
    }
}

impl HookConfig {
    /// One entry of the list, as it stands in the file.
    pub(super) fn to_yaml(&self) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let topics: Vec<&str> = self.topics.iter().map(|topic| topic.word()).collect();
        let target = match &self.target {
            HookTarget::Command(words) => {
                let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
                format!("command: [{}]", words.join(", "))
            }
            HookTarget::Url { url, ca_file } => {
                format!("url: {}, ca_file: {}", quoted(&url.to_string()), quoted(&ca_file.to_string_lossy()))
            }
        };
        let after =
            self.after.map(|after| format!(", after: {}", format_duration(after))).unwrap_or_default();
        format!(
            "  - {{name: {}, on: [{}], {target}, timeout: {}{after}}}\n",
            quoted(&self.name),
            topics.join(", "),
            format_duration(self.timeout)
        )
    }
}

impl Reader<'_> {
    pub(super) fn hooks(&mut self, top: &mut Section<'_>) -> Vec<HookConfig> {
        let Some(node) = top.take("hooks") else { return Vec::new() };
        let Content::List(items) = &node.content else {
            self.refuse(node, "hooks", format!("expected a list, found {}", kind(node)), None);
            return Vec::new();
        };
        if items.len() > MAX_HOOKS {
            self.refuse(
                node,
                "hooks",
                format!("{} hooks are too many, at most {MAX_HOOKS}", items.len()),
                None,
            );
        }
        let mut hooks: Vec<HookConfig> = Vec::new();
        for (index, item) in items.iter().take(MAX_HOOKS).enumerate() {
            let hook = self.hook(item, &format!("hooks[{index}]"));
            if let Some(hook) = &hook
                && hooks.iter().any(|other| other.name == hook.name)
            {
                let hint = Some("give each a name of its own".to_owned());
                self.refuse(item, &format!("hooks[{index}].name"), "two hooks have this name", hint);
            }
            hooks.extend(hook);
        }
        hooks
    }

    fn hook(&mut self, item: &Node, path: &str) -> Option<HookConfig> {
        let mut section = self.section(Some(item), path);
        let name = self.hook_name(&mut section, item);
        let topics = self.topics(&mut section, item);
        let target = self.target(&mut section, item);
        let least = Duration::from_millis(100);
        let timeout = self.duration(&mut section, "timeout", TIMEOUT, least, LONGEST_TIMEOUT);
        let has_after = section.entries.iter().any(|(key, _)| key.name == "after");
        let (second, week) = (Duration::from_secs(1), Duration::from_secs(7 * 86_400));
        let after = self.duration(&mut section, "after", second, second, week);
        self.close(section);
        Some(HookConfig {
            name: name?,
            topics: topics?,
            target: target?,
            timeout,
            after: has_after.then_some(after),
        })
    }

    /// A command inherits the descriptors that the server was started with, and a file behind one can be read again.
    pub(super) fn hooks_get_no_descriptor(&mut self, config: &Config) {
        let is_command = |hook: &HookConfig| matches!(hook.target, HookTarget::Command(_));
        if let Some(path) = config.descriptor_of_a_secret()
            && config.hooks.iter().any(is_command)
        {
            let node = Node { position: None, content: Content::Null };
            let problem = format!("commands would inherit {}, which secrets are read from", path.display());
            let hint = "read the secret from a file that only the server may read, or tell by url".to_owned();
            self.refuse(&node, "hooks", problem, Some(hint));
        }
    }

    fn hook_name(&mut self, section: &mut Section<'_>, item: &Node) -> Option<String> {
        let path = section.path_of("name");
        let Some(node) = section.take("name") else {
            self.refuse(item, &path, "a hook has a name", Some("write name: page, or another".to_owned()));
            return None;
        };
        let name = self.text(node, &path)?;
        let is_good = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
        if !is_good {
            let hint = Some("write such as page or chat-1".to_owned());
            self.refuse(node, &path, "a hook's name is 1 to 64 of a-z, 0-9, -, _ and .", hint);
        }
        is_good.then_some(name)
    }

    fn topics(&mut self, section: &mut Section<'_>, item: &Node) -> Option<BTreeSet<Topic>> {
        let path = section.path_of("on");
        let words = || Topic::NAMED.map(Topic::word).join(", ");
        let Some(node) = section.take("on") else {
            let hint = format!("write on: with some of {}", words());
            self.refuse(item, &path, "a hook says what it hears of", Some(hint));
            return None;
        };
        let Content::List(items) = &node.content else {
            self.refuse(node, &path, format!("expected a list, found {}", kind(node)), None);
            return None;
        };
        let mut topics = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(word) = self.text(item, &path) else { continue };
            match Topic::NAMED.into_iter().find(|topic| topic.word() == word) {
                Some(topic) => drop(topics.insert(topic)),
                None => {
                    self.refuse(
                        item,
                        &path,
                        format!("nobody tells of {word:?}"),
                        Some(format!("write some of {}", words())),
                    );
                }
            }
        }
        if items.is_empty() {
            self.refuse(node, &path, "a hook hears of something", Some(format!("write some of {}", words())));
        }
        (!topics.is_empty()).then_some(topics)
    }

    /// The one of `command` and `url` that a hook has.
    fn target(&mut self, section: &mut Section<'_>, item: &Node) -> Option<HookTarget> {
        let (command_path, url_path) = (section.path_of("command"), section.path_of("url"));
        let (command, url) = (section.take("command"), section.take("url"));
        let ca_path = section.path_of("ca_file");
        let ca_file = section.take("ca_file").and_then(|node| self.text(node, &ca_path));
        match (command, url) {
            (Some(command), None) => self.command(command, &command_path),
            (None, Some(url)) => {
                let target = self.url(url, &url_path);
                let Some(ca_file) = ca_file else {
                    let hint = "write ca_file: with the certificates that vouch for it, such as \
                                /etc/ssl/certs/ca-certificates.crt for those that this host trusts";
                    self.refuse(url, &ca_path, "ca_file is missing", Some(hint.to_owned()));
                    return None;
                };
                Some(HookTarget::Url { url: target?, ca_file: self.base.join(ca_file) })
            }
            (Some(_), Some(url)) => {
                let hint = Some("write two hooks".to_owned());
                self.refuse(url, &url_path, "a hook has a command or a url, not both", hint);
                None
            }
            (None, None) => {
                let hint = "write command: [/path/to/program], or url: https://... with ca_file".to_owned();
                self.refuse(item, &command_path, "a hook says how it is told", Some(hint));
                None
            }
        }
    }

    fn command(&mut self, node: &Node, path: &str) -> Option<HookTarget> {
        let Content::List(items) = &node.content else {
            let hint =
                Some("write the program and each argument: [/usr/local/bin/page, --urgent]".to_owned());
            self.refuse(node, path, format!("expected a list, found {}", kind(node)), hint);
            return None;
        };
        let words: Vec<String> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| self.text(item, &format!("{path}[{index}]")))
            .collect();
        let is_bounded = words.len() <= MAX_WORDS && words.iter().all(|word| word.len() <= MAX_WORD);
        let problem = match words.first() {
            None => Some("a command begins with a program"),
            Some(program) if !program.starts_with('/') => Some("the program is named by its absolute path"),
            Some(_) if !is_bounded => Some("a command has at most 32 words of at most 4096 bytes"),
            Some(_) if words.iter().any(|word| word.contains('\0')) => Some("a word has a zero byte"),
            Some(_) => None,
        };
        if let Some(problem) = problem {
            let hint = "there is no shell and no PATH: write such as /usr/local/bin/page".to_owned();
            self.refuse(node, path, problem, Some(hint));
        }
        (problem.is_none() && words.len() == items.len()).then_some(HookTarget::Command(words))
    }

    fn url(&mut self, node: &Node, path: &str) -> Option<Uri> {
        let text = self.text(node, path)?;
        let url = text.parse::<Uri>().ok().filter(|url| {
            let authority = url.authority().map_or("@", |authority| authority.as_str());
            url.scheme_str() == Some("https") && !authority.contains('@') && !authority.is_empty()
        });
        if url.is_none() {
            // Not repeated: its path may hold what is nobody's business.
            let hint = "write https://HOST[:PORT]/PATH, without a user".to_owned();
            self.refuse(node, path, "it is no https address", Some(hint));
        }
        url
    }
}

fn is_descriptor(path: &Path) -> bool {
    ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"].iter().any(|folder| path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};

    fn read(hooks: &str) -> Result<Config, Vec<String>> {
        let text = format!("trust_domain: td\nhooks:\n{hooks}\n");
        parse("f", &text, &[], Path::new("/x"), false)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn hooks_say_what_they_hear_of_and_how_they_are_told() {
        let config = read(
            "  - {name: page, on: [expiry, barrier], command: [/bin/page, \"a b\"], timeout: 2s}\n  - name: chat\n    on: [issuer]\n    url: https://chat.example:8443/hook?key=1\n    ca_file: chat.pem\n    after: 90s",
        )
        .unwrap();
        let [page, chat] = &config.hooks[..] else { panic!("{:?}", config.hooks) };
        assert_eq!(page.target, HookTarget::Command(vec!["/bin/page".into(), "a b".into()]));
        assert_eq!(page.topics, BTreeSet::from([Topic::Expiry, Topic::Barrier]));
        assert_eq!((page.timeout, page.after), (Duration::from_secs(2), None));
        let HookTarget::Url { url, ca_file } = &chat.target else { panic!("{chat:?}") };
        assert_eq!((url.host(), url.port_u16()), (Some("chat.example"), Some(8443)));
        assert_eq!((ca_file.as_path(), chat.timeout), (Path::new("/x/chat.pem"), TIMEOUT));
        assert_eq!(chat.after, Some(Duration::from_secs(90)));
        assert_eq!(parse("g", &config.to_yaml(), &[], Path::new("/y"), false).as_ref(), Ok(&config));
    }

    #[test]
    fn commands_get_no_descriptor_that_a_secret_is_read_from() {
        let with = |hook: &str, secrets: &str| {
            read(&format!("  - {{name: a, on: [expiry], {hook}}}\nsecrets: {secrets}"))
        };
        let (command, url) = ("command: [/bin/page]", "url: \"https://h/\", ca_file: c");
        let token = "{pkcs11: {module: /m, token: t, key: k, pin_file: /proc/self/fd/4}}";
        let slot = "{slots: [{name: recovery, passphrase_file: /dev/fd/3}]}";
        for secrets in ["{passphrase_file: /dev/fd/3}", token, slot] {
            let problems = with(command, secrets).unwrap_err();
            assert!(
                problems.iter().any(|problem| problem.contains("commands would inherit")),
                "{problems:?}"
            );
            assert!(with(url, secrets).is_ok(), "{secrets}");
        }
        assert!(with(command, "{passphrase_file: /run/credentials/kek}").is_ok());
    }

    #[test]
    fn refuses_hooks_that_say_too_much_or_too_little() {
        let check = |hook: &str, expected: &str| {
            let problems = read(&format!("  - {hook}")).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{hook}: {problems:?}");
            assert!(!problems.iter().any(|problem| problem.contains("hidden")), "{problems:?}");
        };
        let page = "on: [expiry], command: [/bin/page]";
        check("{on: [expiry], command: [/bin/page]}", "a hook has a name");
        check(&format!("{{name: Page, {page}}}"), "1 to 64 of a-z");
        check("{name: a, command: [/bin/page]}", "says what it hears of");
        check("{name: a, on: [], command: [/bin/page]}", "hears of something");
        check("{name: a, on: [weather], command: [/bin/page]}", "nobody tells of \"weather\"");
        check("{name: a, on: [test], command: [/bin/page]}", "nobody tells of \"test\"");
        check("{name: a, on: [expiry]}", "says how it is told");
        check("{name: a, on: [expiry], command: page}", "expected a list");
        check("{name: a, on: [expiry], command: []}", "begins with a program");
        check("{name: a, on: [expiry], command: [page]}", "by its absolute path");
        check(&format!("{{name: a, {page}, url: \"https://h/\", ca_file: c}}"), "not both");
        check(&format!("{{name: a, {page}, timeout: 9s}}"), "9s is outside 100ms to 8s");
        check(&format!("{{name: a, {page}, shell: true}}"), "unknown key \"shell\"");
        check("{name: a, on: [expiry], url: \"https://h/hidden\"}", "ca_file is missing");
        for url in ["http://h/hidden", "https://u:hidden@h/", "hidden", "https:///hidden"] {
            check(&format!("{{name: a, on: [expiry], url: \"{url}\", ca_file: c}}"), "no https address");
        }
        let twice = format!("{{name: a, {page}}}\n  - {{name: a, {page}}}");
        check(&twice, "two hooks have this name");
    }
}
