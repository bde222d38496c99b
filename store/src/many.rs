//! Statements over as many rows as happen to come together.
//!
//! A statement is prepared once for each number of rows that it is written for. So it is written for numbers that double,
//! and the rows that are too many are left unbound: they are NULL throughout, and the statement passes over them.

use std::sync::OnceLock;

/// The most rows of one statement.
pub(crate) const AT_ONCE: usize = 128;
/// 1, 2, 4 ... [`AT_ONCE`].
const SIZES: usize = AT_ONCE.ilog2() as usize + 1;

/// A statement around `(VALUES (?, ...), ...)`, which names what stands in there `column1`, `column2` and so on.
#[derive(Debug)]
pub(crate) struct Many {
    before: &'static str,
    columns: usize,
    after: &'static str,
    sizes: [OnceLock<String>; SIZES],
}

impl Many {
    pub(crate) const fn new(before: &'static str, columns: usize, after: &'static str) -> Self {
        Self { before, columns, after, sizes: [const { OnceLock::new() }; SIZES] }
    }

    /// Its text for `rows` rows, at most [`AT_ONCE`].
    pub(crate) fn sql(&'static self, rows: usize) -> &'static str {
        let size = rows.next_power_of_two().ilog2() as usize;
        self.sizes[size].get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(", "));
            let rows = vec![row; 1 << size].join(", ");
            format!("{}(VALUES {rows}){}", self.before, self.after)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_for_numbers_that_double() {
        static MANY: Many = Many::new("SELECT * FROM ", 2, " WHERE column1 > 0");
        let check = |rows: usize, expected: usize| {
            let sql = MANY.sql(rows);
            assert_eq!(sql.matches("(?, ?)").count(), expected, "{rows}");
            assert!(sql.starts_with("SELECT * FROM (VALUES (?, ?)") && sql.ends_with(") WHERE column1 > 0"));
        };
        for (rows, expected) in [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (64, 64), (65, 128), (AT_ONCE, 128)]
        {
            check(rows, expected);
        }
        assert!(std::ptr::eq(MANY.sql(3), MANY.sql(4)));
    }
}
