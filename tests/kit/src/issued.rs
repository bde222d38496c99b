//! What a world issued, left behind for verifiers that are not ours: `tests/verify-issued` reads it when the suites
//! are through.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use certs::Certificate;
use serde_json::{Value, json};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::workspace;

/// Where it goes: `CREDENCE_EVIDENCE`, else `target/issued`.
fn folder() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment where to put things")]
    let told = std::env::var("CREDENCE_EVIDENCE").ok();
    told.map_or_else(|| workspace().join("target/issued"), PathBuf::from)
}

/// Writes every certificate of the journal and of the authorities, and every revocation list, in the store of
/// `data_dir`, which nobody has open any more. It is read past the store's own door, because that needs the key that
/// some worlds have changed. `beside` are the roots of issuers that are no authorities of the store.
///
/// # Panics
/// When it cannot be read or written: what is not written is not verified.
pub(crate) async fn keep_issued(world: &str, domain: &str, data_dir: &Path, beside: &[Certificate]) {
    let read = read(data_dir).await;
    let (authorities, mut certificates, lists) =
        read.unwrap_or_else(|error| panic!("certificates of {world}: {error}"));
    let chains = || authorities.iter().filter_map(|chain| chain.first().map(|first| (first, chain)));
    let roots: Vec<&Certificate> =
        chains().map(|(first, _)| first).filter(|one| one.is_signed_by(one)).collect();
    for (authority, chain) in chains() {
        let is_root = roots.contains(&authority);
        let profile = if is_root { "root" } else { "issuing" };
        let chain: Vec<String> = chain.iter().map(|one| STANDARD.encode(one.der())).collect();
        certificates.push(json!({ "profile": profile, "chain": chain }));
    }
    let roots: Vec<String> =
        roots.into_iter().chain(beside).map(|root| STANDARD.encode(root.der())).collect();
    let issuer =
        |id: &str| chains().map(|(first, _)| first).find(|one| hex::encode(&one.spki_hash().0[..8]) == id);
    let lists: Vec<Value> = lists
        .iter()
        .map(|(authority, list)| {
            let issuer = issuer(authority).unwrap_or_else(|| panic!("no authority {authority} has a list"));
            json!({ "der": STANDARD.encode(list), "issuer": STANDARD.encode(issuer.der()) })
        })
        .collect();
    let text = json!({ "world": world, "roots": roots, "certificates": certificates, "crls": lists });
    let folder = folder();
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join(format!("{domain}.json")), text.to_string()));
    written.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

/// Whose keys the store of `data_dir` holds, sealed; nobody may have it open.
///
/// # Panics
/// When it cannot be read.
pub async fn kept_keys(data_dir: &Path) -> Vec<String> {
    let read = async {
        let options = SqliteConnectOptions::new().filename(data_dir.join("credence.db"));
        let mut store = SqliteConnection::connect_with(&options).await?;
        let rows =
            sqlx::query("SELECT id FROM sealed WHERE kind = 'authority-key'").fetch_all(&mut store).await?;
        let ids = rows.iter().map(|row| row.try_get("id")).collect::<Result<Vec<String>, _>>()?;
        store.close().await?;
        Ok(ids)
    };
    read.await.unwrap_or_else(|error: sqlx::Error| panic!("keys in {}: {error}", data_dir.display()))
}

/// Each authority with those between it and its root, what was issued, and lists by the id of their authority.
type Read = (Vec<Vec<Certificate>>, Vec<Value>, Vec<(String, Vec<u8>)>);

async fn read(data_dir: &Path) -> Result<Read, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(data_dir.join("credence.db"));
    let mut store = SqliteConnection::connect_with(&options).await?;
    let rows =
        sqlx::query("SELECT certificate, between_chain FROM authorities").fetch_all(&mut store).await?;
    let mut authorities = Vec::new();
    for row in rows {
        let (der, between): (Vec<u8>, Option<Vec<u8>>) =
            (row.try_get("certificate")?, row.try_get("between_chain")?);
        let between = between.unwrap_or_default();
        let ders = std::iter::once(der.as_slice()).chain(split(&between));
        let read = |der| Certificate::from_der(der).unwrap_or_else(|error| panic!("authority: {error}"));
        authorities.push(ders.map(read).collect());
    }
    let issued = "SELECT profile, chain FROM certificates WHERE state = 'issued' AND chain IS NOT NULL";
    let rows = sqlx::query(issued).fetch_all(&mut store).await?;
    let mut certificates = Vec::new();
    for row in rows {
        let (profile, chain): (String, Vec<u8>) = (row.try_get("profile")?, row.try_get("chain")?);
        let chain: Vec<String> = split(&chain).into_iter().map(|der| STANDARD.encode(der)).collect();
        certificates.push(json!({ "profile": profile, "chain": chain }));
    }
    let rows = sqlx::query("SELECT authority, list FROM revocation_lists WHERE list IS NOT NULL")
        .fetch_all(&mut store)
        .await?;
    let lists = rows.iter().map(|row| Ok((row.try_get("authority")?, row.try_get("list")?)));
    let lists = lists.collect::<Result<Vec<_>, sqlx::Error>>()?;
    store.close().await?;
    Ok((authorities, certificates, lists))
}

/// The certificates of a chain, each behind its length (u32, big endian).
fn split(mut octets: &[u8]) -> Vec<&[u8]> {
    let mut chain = Vec::new();
    while let Some((length, rest)) = octets.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (der, after) = rest.split_at_checked(length).unwrap_or_else(|| panic!("a chain is cut off"));
        chain.push(der);
        octets = after;
    }
    chain
}
