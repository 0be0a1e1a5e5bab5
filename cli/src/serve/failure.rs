//! What can go wrong with a request, as a status and one line that says what to do. It becomes a page or JSON in `guard`, which
//! knows who asked.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// An answer that is no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<lm_saes::Error> for Failure {
    fn from(e: lm_saes::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, crate::print::chain(&e.into()))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
