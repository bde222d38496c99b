//! `issuer …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ChangeArgs, ListArgs};

/// `issuer`.
#[derive(Debug, Clone, Subcommand)]
pub enum IssuerCommand {
    /// Name an issuer; it is tried whole, and refused with everything that does not work
    #[command(subcommand)]
    Add(AddIssuerCommand),
    /// The built-in issuer and those beside it: who signs, when the next authority is due, what fails
    List(ListArgs),
    /// Try everything that the next renewal needs, with a throwaway key; of an ACME server, whether it has our account
    #[command(
        after_help = "Examples:\n  credence issuer test corp\n  credence issuer test corp -o json\n\nExit code \
                            1 says that something fails; each line says what, and on which side to change it."
    )]
    Test(NamedIssuerArgs),
    /// Change where an issuer is or which authority of it signs; it is tried whole before anything is kept
    #[command(
        after_help = "Examples:\n  credence issuer update corp --issuer 5f3c0a52-... --dry-run\n  credence issuer update \
                      corp --addr https://vault-2.example:8200 --credential-file secret-id\n\nAnother authority that signs our \
                      authorities signs nothing before: credence issuer migrate --to NAME.\nWhere it signs leaves by a \
                      role, they are replaced; under another root (--trust-anchor) when every connected node has \
                      acknowledged that, and the token must be allowed both until then: --print-policy."
    )]
    Update(UpdateIssuerArgs),
    /// Give an issuer another token or secret id, or the account at an ACME server another key, without a restart; or
    /// register an account again that such a server has lost
    #[command(
        after_help = "Examples:\n  credence issuer credentials corp --credential-file /dev/fd/3 --wrapped \
                            3<wrapped\n  credence issuer credentials le --new-account-key\n  credence issuer \
                            credentials le --register-again --reason 'the server was restored'"
    )]
    Credentials(CredentialsArgs),
    /// Have an issuer sign our next authority now, or with a role the leaves of workloads; afterwards it does so by
    /// itself
    #[command(
        after_help = "Examples:\n  credence issuer migrate --to corp --dry-run\n  credence issuer migrate --to corp \
                      --automatic\n  credence issuer migrate --from builtin --to corp --stage 5%,25%,100% --hold 10m\n  \
                      credence issuer migrate --abort\n  credence issuer migrate --to builtin --now --reason 'Vault is \
                      breached'\n\nThe root of an issuer with a role enters \
                      the bundles of workloads, and it signs their leaves when every connected node has acknowledged \
                      that; --to builtin has our own authority sign them again, at once.\nWith --stage so many of a \
                      hundred identities move at a time, always the same ones; a stage is over when every leaf in it \
                      is acknowledged and has stood for --hold. Five failures within a minute that are a fiftieth of all \
                      tries stop it and take the stage back. --now is for an issuer with a role whose authority is stolen: \
                      leaves are replaced at once, and its root leaves the bundles as soon as no connected node shows \
                      one.\n\nUnder the root of now the \
                      new authority signs at once, and leaves follow. Another root enters every bundle \
                      first, prepared: credence ca status shows who has it, credence ca rotate root activate and \
                      finish go on with it, and --automatic lets them follow by themselves."
    )]
    Migrate(MigrateArgs),
    /// Remove an issuer and its credentials; refused while unexpired authorities or leaves are of it
    Remove(RemoveIssuerArgs),
}

/// `issuer add`.
#[derive(Debug, Clone, Subcommand)]
pub enum AddIssuerCommand {
    /// A Vault whose PKI engine signs our issuing authorities, or with --role the leaves of workloads
    #[command(
        after_help = "Examples:\n  credence issuer add vault corp --mount pki --issuer 0bd4d8ba-... --print-policy\n  \
                      credence issuer add vault corp --addr https://vault.example:8200 --ca-file /etc/credence/vault-ca.pem \
                      \\\n    --mount pki --issuer 0bd4d8ba-... --trust-anchor corp-root.pem --login approle --role-id \
                      credence \\\n    --credential-file /dev/fd/3 3<secret-id\n\nWith --role svid Vault signs each \
                      leaf of a workload by that role, and is tried with a throwaway leaf.\nCredentials are read from \
                      files and descriptors, never from arguments, kept sealed, and never come out again."
    )]
    Vault(Box<AddVaultArgs>),
    /// An ACME server, which gives certificates for public names to edges; an account is made there
    #[command(
        after_help = "Examples:\n  credence issuer add acme le --directory https://acme.example/directory \\\n    \
                      --ca-file /etc/ssl/certs/ca-certificates.crt --contact mailto:ops@example.com --dry-run\n  \
                      credence issuer add acme le --directory https://acme.example/directory \\\n    --ca-file \
                      /etc/ssl/certs/ca-certificates.crt --contact mailto:ops@example.com \\\n    --agree-terms \
                      https://acme.example/terms --external-key-id kid-1 --external-key-file /dev/fd/3 3<hmac-key\n\n\
                      A dry run reads the server's directory and nothing else: it says which terms there are, and \
                      whether an external account is needed. The account gets a key of its own, which is sealed \
                      before the server hears of it. What was begun and not answered goes on by itself, or by the \
                      same command again: exit code 7."
    )]
    Acme(Box<AddAcmeArgs>),
}

/// `issuer add acme`.
#[derive(Debug, Clone, Args)]
pub struct AddAcmeArgs {
    /// Its name here
    pub name: String,
    /// The URL of its directory
    #[arg(long, value_name = "URL")]
    pub directory: String,
    /// A file of the server's host with the certificates that vouch for it, and nothing else does
    #[arg(long, value_name = "PATH")]
    pub ca_file: PathBuf,
    /// Whom it may write to, such as mailto:ops@example.com; can be repeated
    #[arg(long = "contact", value_name = "MAILTO")]
    pub contacts: Vec<String>,
    /// Agree to the terms at this URL, which must be the one that its directory names
    #[arg(long, value_name = "URL")]
    pub agree_terms: Option<String>,
    /// The key id of an account with who runs the server, where it wants one
    #[arg(long, value_name = "ID", requires = "external_key_file")]
    pub external_key_id: Option<String>,
    /// Its HMAC key in base64url: a file, /dev/fd/N, or - for standard input
    #[arg(long, value_name = "FILE", requires = "external_key_id")]
    pub external_key_file: Option<PathBuf>,
    /// The profile by which certificates are ordered, if an edge names none
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// How we prove to a Vault who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoginMethod {
    /// A token that somebody else looks after
    Token,
    /// A role id and a secret id
    Approle,
    /// A client certificate in files of the server's host that somebody renews
    Certificate,
    /// A token in a file of the server's host that somebody renews
    Jwt,
    /// The token of a Kubernetes service account
    Kubernetes,
}

/// What is secret of a login.
#[derive(Debug, Clone, Args)]
pub struct CredentialArgs {
    /// The token or the secret id: a file, /dev/fd/N, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
    /// That file holds a wrapping token, which the server unwraps once
    #[arg(long, requires = "credential_file")]
    pub wrapped: bool,
}

/// `issuer add vault`.
#[derive(Debug, Clone, Args)]
pub struct AddVaultArgs {
    /// Its name here
    pub name: String,
    /// https://HOST:PORT; can be repeated for the nodes of one cluster
    #[arg(long = "addr", value_name = "URL", required_unless_present = "print_policy")]
    pub addresses: Vec<String>,
    /// A file of the server's host with the authorities that vouch for these addresses; read again when it changes
    #[arg(long, value_name = "PATH", required_unless_present = "print_policy")]
    pub ca_file: Option<PathBuf>,
    /// The namespace, where Vault has them
    #[arg(long, value_name = "PATH")]
    pub namespace: Option<String>,
    /// Where the PKI engine is mounted
    #[arg(long, default_value = "pki", value_name = "PATH")]
    pub mount: String,
    /// The issuer of it that signs, by its id: vault list MOUNT/issuers
    #[arg(long, value_name = "ID")]
    pub issuer: String,
    /// The role by which it signs leaves of workloads; without one it signs our issuing authorities
    #[arg(long, value_name = "NAME", conflicts_with = "lifetime")]
    pub role: Option<String>,
    /// The root that whatever it signs must lead to, as PEM
    #[arg(long, value_name = "FILE", required_unless_present = "print_policy")]
    pub trust_anchor: Option<PathBuf>,
    /// Who signs leaves in its place while it rests after failures: builtin, or an issuer with a role [default: nobody]
    #[arg(long, value_name = "NAME", requires = "role")]
    pub fallback: Option<String>,
    /// How long an authority that it signs shall live [default: as issuing authorities live here]
    #[arg(long, value_name = "D")]
    pub lifetime: Option<String>,
    /// How to log in
    #[arg(long, value_enum, required_unless_present = "print_policy")]
    pub login: Option<LoginMethod>,
    /// Where that method is mounted [default: approle, cert, jwt or kubernetes]
    #[arg(long, value_name = "PATH")]
    pub login_mount: Option<String>,
    /// The public half of an approle
    #[arg(long, value_name = "ID")]
    pub role_id: Option<String>,
    /// The role of a certificate, jwt or kubernetes login
    #[arg(long, value_name = "NAME")]
    pub login_role: Option<String>,
    /// The file of the server's host that holds the client certificate of a certificate login, with its chain
    #[arg(long, value_name = "PATH")]
    pub client_certificate: Option<PathBuf>,
    /// The file of the server's host that holds its key
    #[arg(long, value_name = "PATH")]
    pub client_key: Option<PathBuf>,
    /// The file of the server's host that holds the token of a jwt or kubernetes login
    #[arg(long, value_name = "PATH")]
    pub token_path: Option<PathBuf>,
    /// What is secret of it.
    #[command(flatten)]
    pub credential: CredentialArgs,
    /// Print the least that Credence must be allowed there, as a policy of Vault, and do nothing
    #[arg(long)]
    pub print_policy: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Names an issuer.
#[derive(Debug, Clone, Args)]
pub struct NamedIssuerArgs {
    /// Its name
    pub name: String,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `issuer update`.
#[derive(Debug, Clone, Args)]
#[group(id = "what", required = true, multiple = true, args = ["addresses", "issuer", "lifetime", "trust_anchor", "fallback", "no_fallback"])]
pub struct UpdateIssuerArgs {
    /// Its name
    pub name: String,
    /// Other addresses of the same cluster
    #[arg(long = "addr", value_name = "URL")]
    pub addresses: Vec<String>,
    /// Another authority of the same mount, by its id
    #[arg(long, value_name = "ID")]
    pub issuer: Option<String>,
    /// Another root that whatever it signs must lead to, as PEM
    #[arg(long, value_name = "FILE")]
    pub trust_anchor: Option<PathBuf>,
    /// How long an authority that it signs shall live
    #[arg(long, value_name = "D")]
    pub lifetime: Option<String>,
    /// Who signs leaves in its place while it rests after failures: builtin, or an issuer with a role
    #[arg(long, value_name = "NAME", conflicts_with = "no_fallback")]
    pub fallback: Option<String>,
    /// Nobody signs in its place
    #[arg(long)]
    pub no_fallback: bool,
    /// Print what Credence must be allowed there until leaves have moved to the other authority, and do nothing
    #[arg(long, requires = "issuer")]
    pub print_policy: bool,
    /// What is secret of it: needed for another address, to which it is sent.
    #[command(flatten)]
    pub credential: CredentialArgs,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `issuer credentials`.
#[derive(Debug, Clone, Args)]
pub struct CredentialsArgs {
    /// Its name
    pub name: String,
    /// The token or the secret id: a file, /dev/fd/N, or - for standard input
    #[arg(long, value_name = "FILE", required_unless_present_any = ["new_account_key", "register_again"])]
    pub credential_file: Option<PathBuf>,
    /// That file holds a wrapping token, which the server unwraps once
    #[arg(long, requires = "credential_file")]
    pub wrapped: bool,
    /// Give the account at an ACME server another key, which is made and sealed here; the one before is destroyed
    #[arg(long, conflicts_with = "credential_file")]
    pub new_account_key: bool,
    /// Make an account again, for the key that there is, at an ACME server that has lost it; edges go on by it
    #[arg(long, conflicts_with_all = ["credential_file", "new_account_key"])]
    pub register_again: bool,
    /// Agree to the terms at this URL, if the server has other ones by now
    #[arg(long, value_name = "URL", requires = "register_again")]
    pub agree_terms: Option<String>,
    /// The key id of an account with who runs the server, where it wants one
    #[arg(long, value_name = "ID", requires_all = ["register_again", "external_key_file"])]
    pub external_key_id: Option<String>,
    /// Its HMAC key in base64url: a file, /dev/fd/N, or - for standard input
    #[arg(long, value_name = "FILE", requires_all = ["register_again", "external_key_id"])]
    pub external_key_file: Option<PathBuf>,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `issuer migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// The issuer that is to sign
    #[arg(long, value_name = "NAME", required_unless_present_any = ["abort", "resume"])]
    pub to: Option<String>,
    /// The issuer that signs now, refused if another does; with --now, the one that is not to be trusted any more
    #[arg(long, value_name = "NAME", requires = "to")]
    pub from: Option<String>,
    /// With a role: how many of a hundred identities have moved with each stage, ascending, such as 5,25,100 [default:
    /// all at once]
    #[arg(long = "stage", value_name = "PERCENT,...", value_delimiter = ',', value_parser = percent, requires = "to")]
    pub stages: Vec<u8>,
    /// How long each stage stands, complete and without trouble, before the next [default: 60s]
    #[arg(long, value_name = "D", requires = "stages")]
    pub hold: Option<String>,
    /// Leave an issuer with a role whose authority is stolen: replace its leaves at once, and believe none of it after
    #[arg(long, requires = "to", conflicts_with = "stages")]
    pub now: bool,
    /// Have the leaves that were on their way go back
    #[arg(long, conflicts_with_all = ["to", "resume", "automatic"])]
    pub abort: bool,
    /// Have a migration go on that trouble has stopped
    #[arg(long, conflicts_with_all = ["to", "automatic"])]
    pub resume: bool,
    /// Under another root: let the further steps of its rotation follow by themselves as their gates open
    #[arg(long)]
    pub automatic: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `5%` or `5`.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.trim().trim_end_matches('%').trim();
    number
        .parse()
        .ok()
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("{text:?} is no part of a hundred: write 1% to 100%"))
}

/// `issuer remove`.
#[derive(Debug, Clone, Args)]
pub struct RemoveIssuerArgs {
    /// Its name
    pub name: String,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
