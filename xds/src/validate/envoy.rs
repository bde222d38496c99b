//! Envoy's own rules on the result of translation, told in terms of the document.

use prost_types::Any;
use proto::pgv;

use super::Findings;
use crate::{
    model::{Document, node::At},
    translate::{Defaults, Made, origin},
};

pub(crate) fn check(document: &Document, made: &Made, defaults: &Defaults, findings: &mut Findings) {
    let any = Any { type_url: made.type_url.as_str().to_owned(), value: made.content.clone() };
    for violation in pgv::validate_any(&any) {
        let at = At::new(&document.source, origin(document, made, &violation.path, defaults));
        let mut problem = at.problem(violation.rule, violation.message.clone(), "");
        problem.message = format!("Envoy refuses this {}: {}", made.type_url.word(), violation.message);
        problem.hint = format!("it becomes {} of {} {:?}", violation.path, made.type_url.word(), &*made.name);
        if problem.value.is_empty() {
            problem.value = violation.value;
        }
        findings.problems.push(problem);
    }
}
