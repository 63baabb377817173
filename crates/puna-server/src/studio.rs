//! What the web page asks beyond the models: plans, training runs, ratings of answers.
//!
//! `GET /v1/plan` is computed by whoever starts the server ([`Planner`]): laws and hardware are no
//! business of a server of models. Runs and ratings are files in places that were named at the start;
//! a request can choose among the runs that are there, never a path. What was not set up is 404 and
//! says how to.

mod ratings;
mod runs;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::app::App;
use crate::body::{self, Posted, blocking};

type Plan = dyn Fn(&BTreeMap<String, String>) -> Result<Value, String> + Send + Sync;

/// Turns the options of a plan into its answer, or says what is wrong with them.
#[derive(Clone)]
pub struct Planner(Arc<Plan>);

impl Planner {
    /// A planner that asks `plan`.
    pub fn new(
        plan: impl Fn(&BTreeMap<String, String>) -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(plan))
    }
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Planner")
    }
}

type Asked = Result<Query<BTreeMap<String, String>>, axum::extract::rejection::QueryRejection>;

/// `GET /v1/plan`.
pub(crate) async fn plan(State(app): State<Arc<App>>, asked: Asked) -> Result<Response, ApiError> {
    let Some(planner) = app.config.planner.clone() else {
        return Err(ApiError::not_found("/v1/plan: this server has no planner"));
    };
    let Query(asked) = asked.map_err(|error| ApiError::invalid(error.body_text()))?;
    let answer = blocking(move || (planner.0)(&asked).map_err(ApiError::invalid)).await?;
    Ok(body::json(&answer))
}

/// `GET /v1/runs`.
pub(crate) async fn runs(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let folder = runs_folder(&app)?;
    let list = blocking(move || runs::list(&folder)).await?;
    Ok(body::json(&json!({ "object": "list", "data": list })))
}

fn runs_folder(app: &App) -> Result<std::path::PathBuf, ApiError> {
    let none = || ApiError::not_found("/v1/runs: start the server with --runs DIR");
    app.config.runs.clone().ok_or_else(none)
}

/// `GET /v1/runs/{name}/metrics?after=STEP`: lines of JSON.
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    asked: Asked,
) -> Result<Response, ApiError> {
    let folder = runs_folder(&app)?;
    let Query(mut asked) = asked.map_err(|error| ApiError::invalid(error.body_text()))?;
    let after = match asked.remove("after") {
        None => 0,
        Some(text) => {
            text.parse().map_err(|_| ApiError::field("after", "expected the number of a step"))?
        }
    };
    if let Some((unknown, _)) = asked.first_key_value() {
        return Err(ApiError::unknown_field(unknown));
    }
    let lines = blocking(move || runs::metrics(&folder, &name, after)).await?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// `POST /v1/feedback`: a rating of an answer.
pub(crate) async fn feedback(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, .. } = body::read(&app, request).await?;
    let rating = ratings::Rating::read(&mut fields)?;
    fields.finish()?;
    let Some(file) = app.config.feedback.clone() else {
        return Err(ApiError::not_found("/v1/feedback: start the server with --feedback FILE"));
    };
    let lock = Arc::clone(&app);
    blocking(move || {
        let _alone = lock.feedback.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ratings::store(&file, &rating)
    })
    .await?;
    Ok(body::json(&json!({ "stored": true })))
}
