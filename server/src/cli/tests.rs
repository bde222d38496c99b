use clap::CommandFactory;

use super::*;

/// The help of a command and of everything below it.
fn help(command: &mut clap::Command, path: &str, out: &mut String) {
    out.push_str(&format!("$ {path} --help\n{}\n", command.render_long_help()));
    let names: Vec<String> = command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        let below = command.find_subcommand_mut(name).unwrap();
        help(below, &format!("{path} {name}"), out);
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "one variable refreshes golden files")]
fn help_is_what_the_golden_file_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli_help.txt");
    let mut now = String::new();
    help(&mut Cli::command().term_width(100), "credence", &mut now);
    let now: String = now.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    if std::env::var("CREDENCE_BLESS").is_ok() {
        std::fs::write(path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert!(golden == now, "{path} differs: set CREDENCE_BLESS=1, run again, and review the change");
}

#[test]
fn reads_the_lines_of_the_contract() {
    for line in [
        "credence demo --duration 60s --json out.json",
        "credence init --trust-domain prod.example",
        "credence serve --dev",
        "credence serve --config credence.yaml --accept-clock",
        "credence recover --list -o json",
        "credence recover --window 24h --reach 7d --reason why --watch --yes",
        "credence recover --close --dry-run",
        "credence hook list",
        "credence hook test page -o json",
        "credence check a.yaml b.yaml",
        "credence apply -n production -f web.yaml --prune --dry-run",
        "credence diff -f web.yaml",
        "credence get ProxyConfig",
        "credence delete Endpoints api --yes",
        "credence history ProxyConfig web -o json",
        "credence rollback ProxyConfig web --to 3",
        "credence proxy enroll web-1 -n production --label app=web --identity spiffe://td/web --ttl 1h",
        "credence proxy bootstrap web-1",
        "credence proxy list -o yaml",
        "credence proxy list -n production --state OFFLINE",
        "credence proxy list --state not-sent",
        "credence proxy show web-1 --explain",
        "credence proxy watch",
        "credence proxy remove web-1 --yes",
        "credence agent join crd1_x --server cp:18001 --pin sha256:00 --state-dir d --envoy",
        "credence agent run",
        "credence agent run --envoy --server cp:18001",
        "credence expose http://127.0.0.1:3001 --as web --on web-1 --listen 8443 --mtls strict --allow spiffe://td/a",
        "credence verify web",
        "credence ca show",
        "credence ca emergency --authority 2c26b46b68ffc68f --reason stolen --report stolen.json --yes",
        "credence ca rotate intermediate --dry-run",
        "credence ca csr --out request.pem",
        "credence ca root export --offline --out root.pem --passphrase-file /dev/fd/3 --keep",
        "credence ca csr --new --yes",
        "credence ca csr --drop --dry-run",
        "credence ca install chain.pem --automatic -o json",
        "credence cert list --all",
        "credence cert show 01ab",
        "credence cert revoke 01ab --code key-compromise --reason lost --dry-run",
        "credence status --expiring 7d -o json",
        "credence cert explain 01ab",
        "credence cert explain chain.pem --bundle b.pem --as issuing --key k.pem --at 2026-12-24T18:00:00Z",
        "credence cert explain - --for spiffe://td/web --usage server -o json",
        "credence cert lint a.pem b.der --as root",
        "credence identity list",
        "credence identity show spiffe://td/web",
        "credence identity block spiffe://td/web",
        "credence identity block spiffe://td/web --now --evict --reason stolen --dry-run",
        "credence identity unblock spiffe://td/web",
        "credence rollout list -o json",
        "credence rollout pause --all --reason why --for 4h",
        "credence rollout resume --dry-run",
        "credence token list",
        "credence token revoke 0011223344556677",
        "credence audit list --since 1h",
        "credence audit list --limit 100000",
        "credence completion bash",
        "credence completion zsh",
        "credence completion fish",
        "credence audit accept --reason restored",
        "credence secret set db -n prod --grant spiffe://td/web --grant spiffe://td/api --value-file /dev/fd/3",
        "credence secret set tls --grant spiffe://td/web --cert a.crt --key a.key --dry-run",
        "credence secret list",
        "credence secret show db -n prod",
        "credence secret rotate db --value-file -",
        "credence secret remove db --yes",
        "credence issuer add vault corp --mount pki --issuer 0bd4 --print-policy",
        "credence issuer add vault corp --addr https://a:8200 --ca-file /ca.pem --issuer 0bd4 --trust-anchor r.pem --login token --credential-file -",
        "credence issuer list -o json",
        "credence issuer test corp",
        "credence issuer update corp --issuer 5f3c --dry-run",
        "credence issuer credentials corp --credential-file /dev/fd/3 --wrapped",
        "credence issuer migrate --to corp --automatic --yes",
        "credence issuer migrate --from builtin --to corp --stage 5%,25,100% --hold 10m --dry-run",
        "credence issuer migrate --to builtin --now --yes",
        "credence issuer migrate --abort --reason why",
        "credence issuer migrate --resume --yes",
        "credence issuer update corp --no-fallback",
        "credence issuer update corp --issuer 5f3c --print-policy",
        "credence proxy issuer web-1 corp",
        "credence proxy issuer web-1 --default --dry-run",
        "credence issuer remove corp --yes",
        "credence edge add a.example --listener web --issuer public --challenge http-01 --http-listener plain --dry-run",
        "credence edge add a.example --listener web --issuer public --challenge tls-alpn-01 -n shop --reason why -o json",
        "credence edge add a --listener web --issuer i --challenge dns-01 --dns-command /p --domain a.example --profile p",
        "credence edge add a.example --listener web --issuer i --challenge dns-01 --dns-server 192.0.2.1:53 --dns-zone example --dns-key k --dns-key-file -",
        "credence edge list -o json",
        "credence edge show a.example",
        "credence edge renew a.example --reason mended",
        "credence edge remove a.example --yes",
        "credence kek status -o json",
        "credence kek add-slot recovery --dry-run",
        "credence kek remove-slot primary --yes",
        "credence kek rotate slot primary --to primary-2 --yes",
        "credence kek rotate root --leave-behind recovery",
        "credence kek rotate data --class tls",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
    }
    for line in [
        "credence",
        "credence nothing",
        "credence init",
        "credence apply",
        "credence secret set db --value-file x",
        "credence secret set db --grant spiffe://td/web --cert a.crt",
        "credence secret set db --grant spiffe://td/web --value hunter2",
        "credence rollback ProxyConfig web",
        "credence issuer add vault corp --addr https://a:8200 --issuer 0bd4",
        "credence issuer update corp",
        "credence issuer migrate",
        "credence issuer migrate --to corp --abort",
        "credence issuer migrate --to corp --stage 0%",
        "credence issuer migrate --to corp --stage 101",
        "credence issuer migrate --to corp --hold 10m",
        "credence issuer migrate --to corp --stage 5% --now",
        "credence issuer update corp --fallback builtin --no-fallback",
        "credence proxy enroll web-1 --no-labels",
        "credence proxy enroll web-1 --replace --no-labels --label app=web",
        "credence proxy issuer web-1",
        "credence proxy issuer web-1 corp --default",
        "credence proxy list --state gone",
        "credence completion tcsh",
        "credence issuer credentials corp",
        "credence edge add a.example --listener web --issuer public --challenge http-01",
        "credence edge add a.example --listener web --issuer public --challenge dns-01 --dns-server 192.0.2.1:53",
        "credence edge add a.example --listener web --issuer public --challenge tls-sni-01",
        "credence issuer credentials corp --secret-id hunter2",
        "credence ca install",
        "credence ca csr --new --drop",
        "credence ca emergency",
        "credence recover --reach 7d",
        "credence recover --close --watch",
        "credence hook test",
        "credence ca root export --out root.pem --passphrase-file phrase",
        "credence ca root export --offline --out root.pem --passphrase hunter2",
    ] {
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}

#[test]
fn failures_are_said_as_the_command_was_told_to_print_also_where_it_cannot_be_read() {
    let typed = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    for (line, expected) in [
        ("credence status", Format::Table),
        ("credence status -o json", Format::Json),
        ("credence kek rotate root -ojson", Format::Json),
        ("credence doctor --output=yaml", Format::Yaml),
        ("credence agent run", Format::Table),
    ] {
        assert_eq!(Cli::read(&typed(line)).unwrap().1, expected, "{line}");
    }
    for (line, expected) in [
        ("credence nothing", Format::Table),
        ("credence cert show -o json", Format::Json),
        ("credence cert show --output yaml", Format::Yaml),
        ("credence cert show -o=json --nothing", Format::Json),
        ("credence cert show -o xml", Format::Table),
    ] {
        assert!(Cli::read(&typed(line)).is_err(), "{line}");
        assert_eq!(Format::guess(&typed(line)), expected, "{line}");
    }
}

#[test]
fn a_number_of_rows_out_of_bounds_hears_the_bounds() {
    for limit in ["0", "-1", "100001", "x"] {
        let error = Cli::try_parse_from(["credence", "audit", "list", "--limit", limit]).unwrap_err();
        let text = error.to_string();
        let first = text.lines().next().unwrap();
        let told = format!("'{limit}' for '--limit <LIMIT>': it is not a number from 1 to 100000");
        assert!(first.ends_with(&told), "{text}");
    }
}

#[test]
fn every_shell_completes_commands_options_and_words() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = shell.completion();
        for word in ["credence", "proxy", "until-synced", "not-sent", "emergency"] {
            assert!(script.contains(word), "{shell:?} knows no {word}");
        }
        assert!(!script.contains('\u{1b}'), "{shell:?}: colours of help");
    }
}
