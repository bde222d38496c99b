//! Which type goes next: make before break (the xDS protocol page, "Eventual consistency considerations").

use std::{collections::BTreeSet, sync::Arc};

use spiffe::Timestamp;

use super::{Action, Code, Response, Session, Source, TypeUrl};
use crate::subscription::{Hold, Outgoing};

/// What may still use a withdrawn resource, or be needed by what does.
const USERS: [TypeUrl; 4] = [TypeUrl::Cluster, TypeUrl::Listener, TypeUrl::Extension, TypeUrl::Route];
/// Removals, users first.
const REMOVAL_ORDER: [TypeUrl; 4] = [TypeUrl::Route, TypeUrl::Cluster, TypeUrl::Endpoints, TypeUrl::Secret];

impl Session {
    /// Sends one message if one may go, or ends a draining stream that has nothing to say.
    pub(super) fn pump(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let drain_ends = self.draining_since.map(|since| since + self.limits.drain);
        if drain_ends.is_some_and(|at| now >= at) {
            return self.close(actions);
        }
        if !self.is_writable {
            return;
        }
        loop {
            if let Some(response) = self.next_response(now) {
                self.is_writable = false;
                self.sent_any = true;
                actions.push(Action::Send(response));
                return;
            }
            let Some(view) = self.next_view.take() else { break };
            for type_url in TypeUrl::ALL {
                if type_url != TypeUrl::Secret {
                    self.subscription(type_url).update(Source::of(&view, type_url));
                }
            }
        }
        if self.draining_since.is_some() {
            self.close(actions);
        }
    }

    /// A stream that ends before it said anything counts as a failed attempt with gRPC's own clients, which then
    /// back off (A57); one that ends with OK after an answer does not, and Envoy reopens it at once and quietly.
    fn close(&mut self, actions: &mut Vec<Action>) {
        self.is_over = true;
        actions.push(Action::Close(if self.sent_any { Code::Ok } else { Code::Unavailable }));
    }

    fn next_response(&mut self, now: Timestamp) -> Option<Response> {
        if let Some((type_url, removed)) = self.strays.pop_front() {
            let nonce = self.nonces.next();
            return Some(Response { type_url, nonce, version: None, resources: Vec::new(), removed });
        }
        self.next_update(now).or_else(|| self.next_removal(now))
    }

    /// The first type in order that has something to send. A type that has and cannot, since its last response is
    /// not acknowledged, holds back what depends on its change; what a client asked for is never held back.
    fn next_update(&mut self, now: Timestamp) -> Option<Response> {
        let mut held_names: BTreeSet<(TypeUrl, Arc<str>)> = BTreeSet::new();
        let mut is_held = false;
        for type_url in TypeUrl::ALL {
            let subscription = &mut self.subscriptions[type_url as usize];
            if !subscription.started() {
                continue;
            }
            let hold = match type_url {
                TypeUrl::Cluster => Hold::Nothing,
                TypeUrl::Endpoints | TypeUrl::Secret => Hold::Names(&held_names),
                TypeUrl::Listener | TypeUrl::Route if is_held => Hold::Changes,
                // Who is blocked needs nothing else, and waits for nobody's answer.
                TypeUrl::Listener | TypeUrl::Extension | TypeUrl::Route => Hold::Nothing,
            };
            if let Some(outgoing) = subscription.next(now, hold, &self.limits, &mut self.nonces) {
                return Some(self.sent(outgoing));
            }
            if subscription.is_change_pending() {
                is_held = true;
                held_names.extend(subscription.pending_references());
            }
        }
        None
    }

    fn sent(&mut self, outgoing: Outgoing) -> Response {
        for (child, name) in &outgoing.dependants {
            self.subscription(*child).touch(name);
        }
        outgoing.response
    }

    /// Removals come last: when all that may use them is sent and acknowledged, or was given its time, and a little
    /// later, since listeners acknowledge before they have finished warming (xds.md 93).
    fn next_removal(&mut self, now: Timestamp) -> Option<Response> {
        let any = self.subscriptions.iter().any(|subscription| subscription.has_withdrawn());
        if !any || !self.is_quiet(now) {
            return None;
        }
        self.subscriptions.iter_mut().for_each(|subscription| subscription.settle_withdrawn(now));
        REMOVAL_ORDER.into_iter().find_map(|type_url| {
            let subscription = &mut self.subscriptions[type_url as usize];
            Some(subscription.withdraw(now, &self.limits, &mut self.nonces)?.response)
        })
    }

    /// A node that refused a listener or route goes on with the old one, which may use what is withdrawn.
    fn is_quiet(&self, now: Timestamp) -> bool {
        USERS.into_iter().all(|type_url| {
            let subscription = &self.subscriptions[type_url as usize];
            let refused = type_url != TypeUrl::Cluster && subscription.is_refused();
            subscription.gate_open(now, &self.limits) && !subscription.is_pending() && !refused
        })
    }

    /// When something that waits may go on.
    pub(super) fn gate_deadlines(&self) -> impl Iterator<Item = Timestamp> + '_ {
        let withdrawn = self.subscriptions.iter().any(|subscription| subscription.has_withdrawn());
        let lingers = self.subscriptions.iter().filter_map(|subscription| subscription.withdrawn_since());
        self.subscriptions
            .iter()
            .filter(move |subscription| subscription.in_flight() && (withdrawn || subscription.is_pending()))
            .map(|subscription| subscription.gate_ends(&self.limits))
            .chain(lingers.map(|since| since + self.limits.removal_linger))
    }
}
