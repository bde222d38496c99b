//! `hook …`.

use api::wire;

use super::dash;
use crate::{
    cli::HookCommand,
    client::{Client, encode},
    output::{self, Exit, Failure},
};

pub(super) async fn run(command: HookCommand) -> Result<Exit, Failure> {
    match command {
        HookCommand::List(args) => {
            let client = Client::open(&args.server)?;
            let page: wire::Page<wire::Hook> = client.get("/hooks").await?;
            output::show(args.output, &page.items, |items| table(items))?;
            let remark = "no hooks; docs/reference/hooks.md says how credence.yaml names some";
            output::remark_if_empty(args.output, &page.items, remark);
            Ok(Exit::Ok)
        }
        HookCommand::Test(args) => {
            let client = Client::open(&args.list.server)?;
            let path = format!("/hooks/{}/test", encode(&args.name));
            let tested: wire::HookTested = client.post_text(&path, String::new()).await?;
            output::show(args.list.output, &tested, text)?;
            Ok(if tested.taken { Exit::Ok } else { Exit::Failed })
        }
    }
}

fn table(hooks: &[wire::Hook]) -> String {
    let rows = hooks.iter().map(|hook| {
        let (waiting, told, failed) =
            (hook.waiting.to_string(), hook.told.to_string(), hook.failed.to_string());
        let (last, error) = (dash(hook.last.as_deref()), dash(hook.last_error.as_deref()));
        vec![hook.name.clone(), hook.on.join(" "), hook.way.clone(), waiting, told, failed, last, error]
    });
    output::table(&["hook", "on", "way", "waiting", "taken", "failed", "last taken", "last failure"], rows)
}

fn text(tested: &wire::HookTested) -> String {
    let (name, took) = (&tested.name, tested.took_ms);
    if tested.taken {
        format!("hook {name} took it, in {took} ms")
    } else {
        format!("hook {name} did not take it, after {took} ms: {}", tested.reason)
    }
}
