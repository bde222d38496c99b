//! The program: reads commands, answers them, and runs the nodes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, ensure};
use certs::{Clock, Timestamp};
use serde_json::{Value, json};
use server::clock::SystemClock;
use spiffe::{TrustBundle, TrustDomain};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    connection::Identity,
    holding::Holding,
    material::{self, Leaf},
    node::{Node, Orders, Place},
    protocol::{Command, NodePlan, Start, Summary, Tally, Times, Wait, Waited},
    references::Library,
};

/// Between two looks at the nodes while something is waited for.
const PACE: Duration = Duration::from_millis(20);
/// Names in answers that could hold thousands.
const MAX_NAMES: usize = 20;

type Nodes = Vec<Arc<Node>>;

struct Program {
    clock: Arc<dyn Clock>,
    library: Arc<Library>,
    nodes: BTreeMap<String, Arc<Node>>,
    running: JoinSet<()>,
}

/// Takes commands until the input ends or says so.
///
/// # Errors
/// When input or output break.
pub async fn run(
    input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let mut program = Program {
        clock: Arc::new(SystemClock),
        library: Arc::default(),
        nodes: BTreeMap::new(),
        running: JoinSet::new(),
    };
    let mut lines = input.lines();
    let (answer, mut answers) = mpsc::channel::<Value>(64);
    let mut waits = JoinSet::new();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) if line.trim().is_empty() => continue,
                Some(line) => line,
                None => return Ok(()),
            },
            Some(answer) = answers.recv() => {
                write(&mut output, &answer).await?;
                continue;
            }
            Some(_) = waits.join_next() => continue,
        };
        let (id, command) = match parse(&line) {
            Ok(parsed) => parsed,
            Err(error) => {
                write(&mut output, &json!({ "id": null, "error": format!("{error:#}") })).await?;
                continue;
            }
        };
        match command {
            Command::Exit => return write(&mut output, &json!({ "id": id, "ok": null })).await,
            Command::Wait(wait) => match program.select(&wait.nodes) {
                Ok(nodes) => {
                    let (answer, clock) = (answer.clone(), Arc::clone(&program.clock));
                    waits.spawn(async move {
                        let waited = until(&wait, &nodes, &clock).await;
                        // The program has ended, if nobody hears it.
                        let _ = answer.send(json!({ "id": id, "ok": waited })).await;
                    });
                }
                Err(error) => write(&mut output, &refusal(&id, &error)).await?,
            },
            command => {
                let done = program.carry_out(command);
                let answer =
                    done.map_or_else(|error| refusal(&id, &error), |ok| json!({ "id": id, "ok": ok }));
                write(&mut output, &answer).await?;
            }
        }
    }
}

fn refusal(id: &Value, error: &anyhow::Error) -> Value {
    json!({ "id": id, "error": format!("{error:#}") })
}

async fn write(output: &mut (impl AsyncWrite + Unpin), answer: &Value) -> anyhow::Result<()> {
    output.write_all(format!("{answer}\n").as_bytes()).await?;
    output.flush().await.context("cannot answer")
}

fn parse(line: &str) -> anyhow::Result<(Value, Command)> {
    let mut value: Value = serde_json::from_str(line).context("a command is one JSON object on one line")?;
    let id = value.as_object_mut().and_then(|object| object.remove("id")).unwrap_or(Value::Null);
    Ok((id, serde_json::from_value(value)?))
}

impl Program {
    fn carry_out(&mut self, command: Command) -> anyhow::Result<Value> {
        match command {
            Command::Start(start) => self.start(&start),
            Command::Freeze { nodes, what } => self.order(&nodes, |orders| orders.freeze(what)),
            Command::Thaw { nodes } => self.order(&nodes, Orders::thaw),
            Command::Stop { nodes } => self.order(&nodes, |orders| orders.stopped = true),
            Command::Resume { nodes } => self.order(&nodes, |orders| orders.stopped = false),
            Command::Renew { nodes } => self.order(&nodes, |orders| orders.renewals += 1),
            Command::Report { nodes } => {
                let reports: BTreeMap<String, _> =
                    self.select(&nodes)?.iter().map(|node| (node.name().to_owned(), node.report())).collect();
                Ok(serde_json::to_value(reports)?)
            }
            Command::Summary => Ok(serde_json::to_value(self.summary())?),
            Command::Tally { of } => Ok(serde_json::to_value(self.tally(&of))?),
            Command::Wait(_) | Command::Exit => Err(anyhow!("this command is not carried out here")),
        }
    }

    fn start(&mut self, start: &Start) -> anyhow::Result<Value> {
        let domain = TrustDomain::parse(&start.trust_domain).context("trust_domain")?;
        let roots =
            material::certificates(start.roots.as_bytes()).map_err(|error| anyhow!("roots: {error}"))?;
        let bundle = TrustBundle::new(domain, roots, 0);
        ensure!(start.at_once > 0, "at_once is 0: nothing would ever begin");
        let place = Arc::new(Place {
            xds: start.xds,
            enrolment: start.enrolment,
            recover_from: start.recover_from,
            handshakes: Semaphore::new(start.at_once),
            news: start.news,
            clock: Arc::clone(&self.clock),
        });
        let secrets: Vec<Arc<str>> = start.secrets.iter().map(|name| self.library.text(name)).collect();
        let mut fresh = Vec::with_capacity(start.nodes.len());
        for (number, plan) in start.nodes.iter().enumerate() {
            let about = || format!("node {}", plan.node);
            ensure!(!self.nodes.contains_key(&plan.node), "node {} is there already", plan.node);
            let identity = identity(plan).with_context(about)?;
            ensure!(
                identity.is_some() || start.enrolment.is_some(),
                "{} has a token and no enrolment address",
                about()
            );
            let holding = Holding::new(Arc::clone(&self.library), secrets.clone());
            let number = self.nodes.len() + number;
            fresh
                .push((Node::new(number, plan, Arc::clone(&place), bundle.clone(), identity, holding), plan));
        }
        for (node, plan) in fresh {
            let node = Arc::new(node);
            self.running.spawn(Box::pin(Arc::clone(&node).run(plan.token.clone())));
            self.nodes.insert(plan.node.clone(), node);
        }
        Ok(json!({ "nodes": self.nodes.len() }))
    }

    fn select(&self, names: &[String]) -> anyhow::Result<Nodes> {
        if names.is_empty() {
            return Ok(self.nodes.values().cloned().collect());
        }
        names
            .iter()
            .map(|name| self.nodes.get(name).cloned().with_context(|| format!("there is no node {name}")))
            .collect()
    }

    fn order(&self, names: &[String], change: impl Fn(&mut Orders)) -> anyhow::Result<Value> {
        let nodes = self.select(names)?;
        nodes.iter().for_each(|node| node.order(&change));
        Ok(json!({ "nodes": nodes.len() }))
    }

    fn tally(&self, of: &Tally) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes.values() {
            *counts.entry(node.tally(of)).or_default() += 1;
        }
        counts
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary {
            nodes: self.nodes.len(),
            stages: BTreeMap::new(),
            unanswered: 0,
            counters: Default::default(),
            broken: BTreeMap::new(),
            violations: Vec::new(),
            errors: Vec::new(),
            memory_bytes: resident().unwrap_or_default(),
        };
        for (name, node) in &self.nodes {
            let brief = node.brief();
            *summary.stages.entry(brief.stage).or_default() += 1;
            summary.unanswered += brief.unanswered;
            summary.counters.add(&brief.counters);
            for (rule, count) in brief.broken {
                *summary.broken.entry(rule).or_default() += count;
            }
            if let Some(first) = brief.first
                && summary.violations.len() < MAX_NAMES
            {
                summary.violations.push((name.clone(), first));
            }
            if let Some(error) = brief.last_error
                && brief.stage != crate::protocol::Stage::Connected
                && summary.errors.len() < MAX_NAMES
            {
                summary.errors.push((name.clone(), error));
            }
        }
        summary
    }
}

/// What a plan brings beside a token; exactly one of both is there.
fn identity(plan: &NodePlan) -> anyhow::Result<Option<Identity>> {
    match (&plan.token, &plan.chain, &plan.key) {
        (Some(_), None, None) => Ok(None),
        (None, Some(chain), Some(key)) => {
            let read = |error: String| anyhow!(error);
            let leaf = material::chain(chain.as_bytes()).and_then(Leaf::of).map_err(read).context("chain")?;
            let key = material::key_of(key.as_bytes()).map_err(read).context("key")?;
            ensure!(key.public().spki_der() == leaf.chain.leaf().spki_der(), "the key is not the chain's");
            Identity::new(leaf, Arc::new(key)).map(Some)
        }
        _ => Err(anyhow!("it needs either a token, or a chain and its key")),
    }
}

async fn until(wait: &Wait, nodes: &Nodes, clock: &Arc<dyn Clock>) -> Waited {
    let since = wait.since_ms.map_or_else(|| clock.now(), Timestamp::from_unix_millis);
    let end = Instant::now() + Duration::from_millis(wait.within_ms);
    loop {
        let (met, missing): (Vec<_>, Vec<_>) =
            nodes.iter().map(|node| (node, node.since(&wait.until))).partition(|(_, since)| since.is_some());
        if missing.is_empty() || Instant::now() >= end {
            let times =
                met.iter().filter_map(|(_, at)| Some(at.as_ref()?.millis_since(since).max(0))).collect();
            return Waited {
                met: missing.is_empty(),
                count: met.len(),
                missing: missing.len(),
                names: missing.iter().take(MAX_NAMES).map(|(node, _)| node.name().to_owned()).collect(),
                times: Times::of(times),
            };
        }
        sleep(PACE).await;
    }
}

/// Resident memory in bytes, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    async fn says(input: &str) -> Vec<Value> {
        let mut output = Vec::new();
        run(BufReader::new(input.as_bytes()), &mut output).await.unwrap();
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn answers_each_line_with_its_id_and_says_what_it_does_not_take() {
        let answers = says(concat!(
            "{\"id\": 1, \"do\": \"summary\"}\n",
            "\n",
            "{\"id\": \"two\", \"do\": \"dance\"}\n",
            "no JSON\n",
            "{\"id\": 3, \"do\": \"stop\", \"nodes\": [\"n9\"]}\n",
            "{\"id\": 4, \"do\": \"tally\", \"of\": {\"what\": \"node\"}, \"extra\": 1}\n",
            "{\"id\": 5, \"do\": \"exit\"}\n",
            "{\"id\": 6, \"do\": \"summary\"}\n",
        ))
        .await;
        assert_eq!(answers.len(), 6, "{answers:#?}");
        assert_eq!((&answers[0]["id"], &answers[0]["ok"]["nodes"]), (&json!(1), &json!(0)));
        let error = |at: usize| answers[at]["error"].as_str().unwrap();
        assert!(error(1).contains("unknown variant `dance`"), "{}", error(1));
        assert!(error(2).contains("one JSON object"), "{}", error(2));
        assert!(error(3).contains("there is no node n9"), "{}", error(3));
        assert!(error(4).contains("unknown field `extra`"), "{}", error(4));
        assert_eq!(answers[5], json!({ "id": 5, "ok": null }));
    }

    #[tokio::test]
    async fn a_wait_for_no_nodes_is_met_and_a_bad_start_starts_nothing() {
        let answers = says(concat!(
            "{\"id\": 1, \"do\": \"start\", \"xds\": \"127.0.0.1:1\", \"trust_domain\": \"x.test\", \"roots\": \"\", \"nodes\": []}\n",
            "{\"id\": 2, \"do\": \"summary\"}\n",
            "{\"id\": 3, \"do\": \"exit\"}\n",
        ))
        .await;
        assert!(answers[0]["error"].as_str().unwrap().starts_with("roots:"), "{}", answers[0]);
        assert_eq!(answers[1]["ok"]["nodes"], 0);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let wait = Wait {
            until: crate::protocol::Until::Connected,
            nodes: Vec::new(),
            within_ms: 0,
            since_ms: None,
        };
        assert!(until(&wait, &Vec::new(), &clock).await.met);
    }
}
