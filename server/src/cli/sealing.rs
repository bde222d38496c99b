//! `kek …`, `secret …`, `audit accept`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ChangeArgs, ListArgs};

/// `kek`.
#[derive(Debug, Clone, Subcommand)]
pub enum KekCommand {
    /// Key slots, data keys, and how many records are still under an old key
    Status(ListArgs),
    /// Add the slot that secrets.slots of the server's credence.yaml names, and prove that it opens the store
    #[command(
        after_help = "Examples:\n  credence kek add-slot recovery\n  credence kek add-slot vault --print-policy --key \
                            credence\n\nThe server reads secrets.slots of its own \
                            credence.yaml anew for this. No key, passphrase or PIN is ever given to this command \
                            or sent to the server: the slot says from which file, descriptor or token the server \
                            takes it. A key file or key on a token that does not exist is made; a key in Vault \
                            is not."
    )]
    AddSlot(AddSlotArgs),
    /// Remove a slot; refused for the last one, when no other opens with what credence.yaml names, and when only Vault
    /// would open the store
    RemoveSlot(RemoveSlotArgs),
    /// Replace keys while everything serves
    #[command(subcommand)]
    Rotate(KekRotateCommand),
}

/// `kek rotate`.
#[derive(Debug, Clone, Subcommand)]
pub enum KekRotateCommand {
    /// A key-encryption key: add the new slot, prove that it opens, remove the old one
    #[command(
        after_help = "Examples:\n  credence kek rotate slot primary --to primary-2027\n  credence kek rotate slot \
                            vault\n\nWithout --to a slot in Vault's Transit is wrapped anew by the latest version of \
                            its key."
    )]
    Slot(RotateSlotArgs),
    /// The root key: every data key is wrapped anew, in one transaction
    Root(RotateRootArgs),
    /// The data keys: records are sealed anew in the background, then the old keys are destroyed
    Data(RotateDataArgs),
}

/// `kek add-slot`.
#[derive(Debug, Clone, Args)]
pub struct AddSlotArgs {
    /// The slot's name
    pub name: String,
    /// Print the least that a slot in Vault's Transit must be allowed there, as a policy of Vault, and do nothing
    #[arg(long, requires = "key")]
    pub print_policy: bool,
    /// For that policy: where Transit is mounted
    #[arg(long, default_value = "transit", value_name = "PATH", requires = "print_policy")]
    pub mount: String,
    /// For that policy: the key's name
    #[arg(long, value_name = "NAME", requires = "print_policy")]
    pub key: Option<String>,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `kek remove-slot`.
#[derive(Debug, Clone, Args)]
pub struct RemoveSlotArgs {
    /// The slot's name
    pub name: String,
    /// Also when only slots in Vault are left: whoever loses that Vault loses everything
    #[arg(long)]
    pub insecure_single_slot: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `kek rotate slot`.
#[derive(Debug, Clone, Args)]
pub struct RotateSlotArgs {
    /// The slot to be removed, or to be wrapped anew
    pub name: String,
    /// The slot to be added, as secrets.slots of the server's credence.yaml names it [default: none, the slot of now is
    /// wrapped anew]
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// Also when only slots in Vault are left: whoever loses that Vault loses everything
    #[arg(long)]
    pub insecure_single_slot: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `kek rotate root`.
#[derive(Debug, Clone, Args)]
pub struct RotateRootArgs {
    /// A slot that is not at hand and is removed: its key would no longer open the store; can be repeated
    #[arg(long, value_name = "NAME")]
    pub leave_behind: Vec<String>,
    /// Also when only slots in Vault are left: whoever loses that Vault loses everything
    #[arg(long)]
    pub insecure_single_slot: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `kek rotate data`.
#[derive(Debug, Clone, Args)]
pub struct RotateDataArgs {
    /// One class: ca, tls, backend, audit-mac; default: all
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `audit accept`.
#[derive(Debug, Clone, Args)]
pub struct AcceptArgs {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `secret`.
#[derive(Debug, Clone, Subcommand)]
pub enum SecretCommand {
    /// Write a secret: a certificate with its key, or a value; proxies ask for it as secret://NAMESPACE/NAME
    #[command(
        after_help = "Examples:\n  credence secret set shop-tls --grant spiffe://prod.example/shop --cert shop.crt \
                            --key shop.key\n  credence secret set api-token --grant spiffe://prod.example/shop \
                            --value-file /dev/fd/3 3<token\n\nValues are read from files and descriptors, never \
                            from arguments, and never come out again."
    )]
    Set(SecretSetArgs),
    /// List secrets, without their values
    List(ListArgs),
    /// One secret, without its value
    Show(SecretShowArgs),
    /// Replace the value of a secret; its grants stay
    Rotate(SecretRotateArgs),
    /// Remove a secret
    Remove(SecretRemoveArgs),
}

/// What a secret is.
#[derive(Debug, Clone, Args)]
pub struct SecretValueArgs {
    /// The chain as PEM, leaf first: a file, /dev/fd/N, or - for standard input
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "value_file")]
    pub cert: Option<PathBuf>,
    /// The key of the certificate as PEM, unencrypted
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Bytes of any meaning, at most 64 KiB
    #[arg(long, value_name = "FILE")]
    pub value_file: Option<PathBuf>,
}

/// `secret set`.
#[derive(Debug, Clone, Args)]
pub struct SecretSetArgs {
    /// Its name
    pub name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// A workload identity that may have it; can be repeated
    #[arg(long = "grant", value_name = "SPIFFE-ID", required = true)]
    pub grants: Vec<String>,
    /// What it is.
    #[command(flatten)]
    pub value: SecretValueArgs,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `secret show`.
#[derive(Debug, Clone, Args)]
pub struct SecretShowArgs {
    /// Its name
    pub name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `secret rotate`.
#[derive(Debug, Clone, Args)]
pub struct SecretRotateArgs {
    /// Its name
    pub name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// What it is from now on.
    #[command(flatten)]
    pub value: SecretValueArgs,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `secret remove`.
#[derive(Debug, Clone, Args)]
pub struct SecretRemoveArgs {
    /// Its name
    pub name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
