//! A client of an ACME server (RFC 8555), as Credence needs it: certificates for public names, with a key and an account
//! that the caller has stored before anything is asked, and with every step stored before the next.
//!
//! It knows no Envoy, no store and no configuration file: what is wanted is told to it, what must be stored or published
//! it says, and what comes back are values of `certs`. It asks no environment, has no clock of its own and spawns
//! nothing. Keys sign behind [`certs::Signer`].
//!
//! What is sent where: the directory, nonces and renewal information are read from the URLs that the operator gave and
//! the directory names, with nothing of ours in them. Everything else is signed by the account's key over the URL that
//! it goes to and a nonce, so that who gets it can do nothing with it elsewhere; a server may name URLs of other hosts,
//! over `https` only, and they are held against the same CA file. No key, token or password is ever sent: of an
//! external account's HMAC key only a signature. Redirects are not followed.
//!
//! Start reading at [`Trouble`] (what can be the matter, and what to do about it), then [`Order`] (how a certificate is
//! obtained), [`check`] (what is taken of what comes) and [`Renewal`] (when it is renewed).
//!
//! ```text
//! Wanted --Order.step(event, now)--> Keep (stored) --> Ask --Client--> JWS --TLS--> server --> judge --> Answered
//!              ^                 '--> Publish, Withdraw (whoever serves the name)            '--> Trouble
//!              '------------------------------------ Event -------------------------------------'
//! ```

mod answer;
mod challenge;
pub mod check;
mod client;
mod failures;
mod jws;
mod name;
mod order;
mod problem;
mod renewal;
mod transport;
mod trouble;
mod url;

pub use self::answer::{
    AccountFound, AuthorizationBody, AuthorizationStatus, ChallengeBody, ChallengeStatus, Directory,
    MAX_ALTERNATES, MAX_ANSWER, OrderBody, OrderStatus, Reply, Window, judge, read_orders,
};
pub use self::challenge::{ACME_TLS, ChallengeKind, Presented};
pub use self::client::{Account, Client, Desk, MAX_NONCE_TRIES, NotKept, Opens, Registration, given_up};
pub use self::failures::{Failures, Jitter, LastFailure};
pub use self::jws::{ExternalAccount, ExternalAccountError, MAX_KEY_ID, thumbprint};
pub use self::name::{Identifier, IdentifierError, MAX_NAMES, Names};
pub use self::order::{
    Action, Answered, Ask, Event, MAX_LEAVING, MAX_LOOK, MAX_POLL, MAX_PRESENTED, Order, PUBLISH_WITHIN,
    Saved, Wanted, WantedError, keep_newest,
};
pub use self::problem::{Pace, Problem, ProblemKind, Subproblem, hint_about};
pub use self::renewal::{
    ASK, CertificateId, MAX_ASK, MIN_ASK, MIN_KEPT, Renewal, RenewalAction, RenewalEvent,
};
pub use self::transport::Settings;
pub use self::trouble::{MAX_RETRY_AFTER, RetryAfter, Trouble};
pub use self::url::{MAX_URL, Url, UrlError};
