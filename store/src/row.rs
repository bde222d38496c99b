//! From columns to values and back.

use std::{error::Error, str::FromStr};

use certs::{Serial, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Row,
    sqlite::{SqliteQueryResult, SqliteRow},
};
use uuid::Uuid;

/// A column does not hold what it should.
pub(crate) fn decode(column: &str, problem: impl Into<Box<dyn Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.into(), source: problem.into() }
}

/// What was to change one row has changed it.
pub(crate) fn one_row(written: &SqliteQueryResult) -> Result<(), sqlx::Error> {
    if written.rows_affected() == 1 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
}

/// SQLite's integers are signed; ours stay far below the difference.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|error| decode(column, error))
}

pub(crate) fn uuid(row: &SqliteRow, column: &str) -> Result<Uuid, sqlx::Error> {
    Uuid::from_slice(row.try_get(column)?).map_err(|error| decode(column, error))
}

pub(crate) fn bytes32(row: &SqliteRow, column: &str) -> Result<[u8; 32], sqlx::Error> {
    row.try_get::<&[u8], _>(column)?.try_into().map_err(|error| decode(column, error))
}

pub(crate) fn time(row: &SqliteRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Ok(Timestamp::from_unix_millis(row.try_get(column)?))
}

pub(crate) fn optional_time(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_unix_millis))
}

pub(crate) fn serial(row: &SqliteRow) -> Result<Serial, sqlx::Error> {
    Serial::from_bytes(row.try_get("serial")?).map_err(|error| decode("serial", error))
}

pub(crate) fn parsed<T>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    row.try_get::<&str, _>(column)?.parse().map_err(|error| decode(column, error))
}

pub(crate) fn optional_parsed<T>(row: &SqliteRow, column: &str) -> Result<Option<T>, sqlx::Error>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    let text: Option<&str> = row.try_get(column)?;
    text.map(|text| text.parse().map_err(|error| decode(column, error))).transpose()
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(crate) fn from_json<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(row.try_get(column)?).map_err(|error| decode(column, error))
}

/// The word under which serde writes a plain variant.
pub(crate) fn word<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        Ok(other) => Err(sqlx::Error::Encode(format!("{other} is not a word").into())),
        Err(error) => Err(sqlx::Error::Encode(error.into())),
    }
}

pub(crate) fn from_word<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error> {
    let word: String = row.try_get(column)?;
    serde_json::from_value(serde_json::Value::String(word)).map_err(|error| decode(column, error))
}

/// Each certificate behind its length (u32, big endian).
pub(crate) fn chain_bytes<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for certificate in chain {
        bytes.extend_from_slice(&u32::try_from(certificate.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(certificate);
    }
    bytes
}

pub(crate) fn chain_of(row: &SqliteRow, column: &str) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    let Some(mut bytes) = row.try_get::<Option<&[u8]>, _>(column)? else { return Ok(Vec::new()) };
    let mut chain = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (certificate, rest) =
            rest.split_at_checked(length).ok_or_else(|| decode(column, "certificate is cut off"))?;
        chain.push(certificate.to_vec());
        bytes = rest;
    }
    Ok(chain)
}
