//! A run for MLflow: sent to a tracking server over its REST API. It knows the variables MLflow's own client reads; a login
//! goes into requests and nowhere else.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::blocking::{Client, RequestBuilder};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use stage_api::{AllowedEnv, StageError, ToolContext};

use super::tracked::Tracked;
use crate::host::http_client;

/// The variables of the environment that say where the server is, who asks, and into which experiment the run goes.
pub(super) const VARIABLES: &[&str] = &[
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_EXPERIMENT_NAME",
];

/// The experiment of MLflow's client when none is named.
const DEFAULT_EXPERIMENT: &str = "Default";
/// Most metrics that the server takes at a time.
const METRICS_AT_ONCE: usize = 1000;
/// Most params that it takes at a time.
const PARAMS_AT_ONCE: usize = 100;
/// The longest value of a param.
const LONGEST_PARAM: usize = 6000;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the run, unless it is there already, and says at which address it is.
pub(super) fn export(
    run: &Tracked,
    server: Option<&str>,
    context: &ToolContext,
) -> Result<String, StageError> {
    let server = Server::new(server, context.allowed_env)?;
    let name = context.allowed_env.text("MLFLOW_EXPERIMENT_NAME").unwrap_or(DEFAULT_EXPERIMENT);
    let experiment = server.experiment(name)?;
    if let Some(id) = server.finished(&experiment, &run.key)? {
        context.progress.note("the server has this run already; nothing was sent");
        return Ok(server.address(&experiment, &id));
    }
    let id = server.begin(&experiment, run)?;
    let sent = server.send(&id, run);
    // A run that was cut short must not look like one that is still going, nor be found as finished.
    let status = if sent.is_ok() { "FINISHED" } else { "FAILED" };
    let ended = server.end(&id, status, run.at_ms(u64::MAX));
    sent.and(ended)?;
    Ok(server.address(&experiment, &id))
}

struct Server {
    client: Client,
    /// Without a login, so that it may be shown.
    base: Url,
    login: Login,
}

enum Login {
    None,
    Token(String),
    User(String, Option<String>),
}

/// Why a request brought nothing.
enum Refusal {
    /// The server has no such thing.
    Missing,
    /// Anything else.
    Other(StageError),
}

impl From<Refusal> for StageError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => {
                Self::failed("the MLflow server has no such address; is it a tracking server?")
            }
            Refusal::Other(error) => error,
        }
    }
}

impl Server {
    fn new(given: Option<&str>, allowed_env: &AllowedEnv) -> Result<Self, StageError> {
        let address = given.or_else(|| allowed_env.text("MLFLOW_TRACKING_URI")).ok_or_else(|| {
            StageError::Params(
                "no server is named: give --out http://HOST:PORT or set MLFLOW_TRACKING_URI".to_owned(),
            )
        })?;
        // The address may hold a password, so it is not repeated.
        let wrong = || {
            StageError::Params("the MLflow server's address must begin with http:// or https://".to_owned())
        };
        let mut base = Url::parse(address).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let login = login(&base, allowed_env);
        base.set_username("").and_then(|()| base.set_password(None)).map_err(|()| wrong())?;
        base.set_path(base.path().trim_end_matches('/').to_owned().as_str());
        let client = http_client().timeout(PATIENCE).redirect(Policy::none()).build();
        Ok(Self { client: client.map_err(|error| StageError::from_chain(&error))?, base, login })
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base.as_str().trim_end_matches('/'))
    }

    /// Where a person looks at a run.
    fn address(&self, experiment: &str, run: &str) -> String {
        self.url(&format!("#/experiments/{experiment}/runs/{run}"))
    }

    fn experiment(&self, name: &str) -> Result<String, StageError> {
        let quoted = utf8_percent_encode(name, NON_ALPHANUMERIC);
        match self
            .ask(self.client.get(self.api(&format!("experiments/get-by-name?experiment_name={quoted}"))))
        {
            Ok(found) => text(&found, "/experiment/experiment_id"),
            Err(Refusal::Missing) => {
                let created = self.post("experiments/create", &json!({"name": name}))?;
                text(&created, "/experiment_id")
            }
            Err(Refusal::Other(error)) => Err(error),
        }
    }

    /// The finished run of that key, if one was sent before.
    fn finished(&self, experiment: &str, key: &str) -> Result<Option<String>, StageError> {
        let filter = format!("tags.`repro.key` = '{key}' and attributes.status = 'FINISHED'");
        let question = json!({"experiment_ids": [experiment], "filter": filter, "max_results": 1});
        let found = self.post("runs/search", &question)?;
        Ok(found.pointer("/runs/0/info/run_id").and_then(Value::as_str).map(ToOwned::to_owned))
    }

    fn begin(&self, experiment: &str, run: &Tracked) -> Result<String, StageError> {
        let tags = [
            ("mlflow.source.name", "repro"),
            ("repro.step", &run.name),
            ("repro.profile", &run.profile),
            ("repro.key", &run.key),
            ("repro.tree", &run.tree),
            ("repro.host", &run.run.host),
            ("repro.device", &run.run.device),
        ];
        let tags = tags.map(|(key, value)| json!({"key": key, "value": value}));
        let body = json!({
            "experiment_id": experiment,
            "run_name": run.name,
            "start_time": run.run.started_ms,
            "tags": tags,
        });
        text(&self.post("runs/create", &body)?, "/run/info/run_id")
    }

    fn send(&self, id: &str, run: &Tracked) -> Result<(), StageError> {
        let params: Vec<Value> = run.settings.iter().map(|(name, value)| param(name, value)).collect();
        for params in params.chunks(PARAMS_AT_ONCE) {
            self.post("runs/log-batch", &json!({"run_id": id, "params": params}))?;
        }
        let metric = |update: u64, name: &str, value: f64| json!({"key": name, "value": number(value), "timestamp": run.at_ms(update), "step": update});
        let curves = run.curves.iter();
        let curves =
            curves.flat_map(|(&at, values)| values.iter().map(move |(name, value)| metric(at, name, *value)));
        let finals = run.finals.iter().map(|(name, value)| metric(run.best, name, *value));
        for metrics in curves.chain(finals).collect::<Vec<_>>().chunks(METRICS_AT_ONCE) {
            self.post("runs/log-batch", &json!({"run_id": id, "metrics": metrics}))?;
        }
        Ok(())
    }

    fn end(&self, id: &str, status: &str, at_ms: u64) -> Result<(), StageError> {
        self.post("runs/update", &json!({"run_id": id, "status": status, "end_time": at_ms}))?;
        Ok(())
    }

    fn api(&self, path: &str) -> String {
        self.url(&format!("api/2.0/mlflow/{path}"))
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, StageError> {
        let request = self.client.post(self.api(path)).header("content-type", "application/json");
        Ok(self.ask(request.body(body.to_string()))?)
    }

    fn ask(&self, request: RequestBuilder) -> Result<Value, Refusal> {
        let request = match &self.login {
            Login::None => request,
            Login::Token(token) => request.bearer_auth(token),
            Login::User(name, password) => request.basic_auth(name, password.as_ref()),
        };
        let failed = |problem: String| {
            Refusal::Other(StageError::failed(format!("the MLflow server at {}: {problem}", self.base)))
        };
        // The error's own text would repeat the address.
        let chain = |error: reqwest::Error| StageError::from_chain(&error.without_url()).to_string();
        let answer = request
            .send()
            .map_err(|error| failed(format!("{}; is it running, and is this its address?", chain(error))))?;
        let status = answer.status();
        let body = answer.text().map_err(|error| failed(chain(error)))?;
        let value: Option<Value> = serde_json::from_str(&body).ok();
        let field = |name: &str| value.as_ref().and_then(|value| value.get(name)).and_then(Value::as_str);
        match status {
            _ if status.is_success() => {
                value.ok_or_else(|| failed("its answer is not JSON; is it MLflow?".to_owned()))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(failed(format!(
                "it answered {status}; set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and \
                 MLFLOW_TRACKING_PASSWORD, to a login that it accepts"
            ))),
            StatusCode::NOT_FOUND if field("error_code") == Some("RESOURCE_DOES_NOT_EXIST") => {
                Err(Refusal::Missing)
            }
            _ => Err(failed(match field("message") {
                Some(message) => format!("it answered {status}: {message}"),
                None => format!("it answered {status}"),
            })),
        }
    }
}

/// As MLflow's client: a user's name goes before a token, and what the environment says before what the address does.
fn login(address: &Url, allowed_env: &AllowedEnv) -> Login {
    let text = |name: &str| allowed_env.text(name).map(ToOwned::to_owned);
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    if let Some(name) = text("MLFLOW_TRACKING_USERNAME") {
        Login::User(name, text("MLFLOW_TRACKING_PASSWORD"))
    } else if let Some(token) = text("MLFLOW_TRACKING_TOKEN") {
        Login::Token(token)
    } else if !address.username().is_empty() {
        Login::User(decoded(address.username()), address.password().map(decoded))
    } else {
        Login::None
    }
}

fn param(name: &str, value: &Value) -> Value {
    let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    json!({"key": name, "value": value.chars().take(LONGEST_PARAM).collect::<String>()})
}

/// A number in the JSON of Protocol Buffers, which has names for those that are none.
fn number(value: f64) -> Value {
    match value {
        _ if value.is_nan() => "NaN".into(),
        _ if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ => value.into(),
    }
}

fn text(answer: &Value, at: &str) -> Result<String, StageError> {
    let found = answer.pointer(at).and_then(Value::as_str).map(ToOwned::to_owned);
    found.ok_or_else(|| StageError::failed(format!("the MLflow server's answer lacks {at}; is it MLflow?")))
}

#[cfg(test)]
mod tests;
