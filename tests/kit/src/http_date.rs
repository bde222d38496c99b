//! What servers of tests say of a time.

use certs::Timestamp;

/// A time as HTTP writes it (RFC 9110 5.6.7), whole seconds.
///
/// # Panics
/// When it is before 1970.
#[must_use]
pub fn http_date(at: Timestamp) -> String {
    let days = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = at.floor_secs().to_string();
    let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("{text} is no number"));
    let day = days[number(&(at.unix_secs() / 86_400 % 7).to_string())];
    let month = months[number(&text[5..7]) - 1];
    format!("{day}, {} {month} {} {} GMT", &text[8..10], &text[..4], &text[11..19])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_http_wants_it() {
        assert_eq!(http_date(Timestamp::from_unix_secs(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
