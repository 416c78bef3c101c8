//! The OpenAPI document: what the routes say of themselves, and what is the same for all of them.

use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        self, Content, Ref, RefOr, Response,
        path::{Operation, ParameterIn, PathItem},
        schema::{AdditionalProperties, Schema},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::problem;
use crate::message;

/// Name of the security scheme in the document.
const API_KEY: &str = "api_key";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "popbridge",
        description = "POP3 mailboxes as a JSON API and signed webhooks.\n\n\
            Errors are problem details (RFC 9457) with a stable `code`. Unknown query parameters \
            and unknown body fields are errors. Lists are pages, newest first: pass `next_cursor` \
            as `cursor` until it is null. Every response has `x-request-id`.",
    ),
    // The last two are flattened into messages, where the macros do not see them.
    components(schemas(problem::Document, message::Summary, message::Body)),
    tags(
        (name = "mailboxes", description = "POP3 mailboxes that are watched."),
        (name = "syncs", description = "Passes over a maildrop."),
        (name = "messages", description = "What was fetched."),
        (name = "webhooks", description = "Endpoints that hear of events."),
        (name = "operations", description = "Health and metrics."),
    ),
)]
struct Base;

/// What the routes are added to.
pub(super) fn base() -> openapi::OpenApi {
    let mut document = Base::openapi();
    // Where this is served: clients generated from it take an address of their own.
    document.servers = None;
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key; each operation names the scope that it needs.",
        ))
        .build();
    document
        .components
        .get_or_insert_default()
        .security_schemes
        .insert(API_KEY.to_owned(), SecurityScheme::Http(key).into());
    document
}

/// Adds the errors that routes have because of what they take, and the shape of every error.
pub(super) fn complete(mut document: openapi::OpenApi) -> openapi::OpenApi {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for (status, description) in common_errors(operation) {
            operation
                .responses
                .responses
                .entry(status.to_owned())
                .or_insert_with(|| Response::new(description).into());
        }
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response
                && status.starts_with(['4', '5'])
            {
                let schema = Ref::from_schema_name(problem::Document::name());
                let content = Content::new(Some(schema));
                response
                    .content
                    .insert("application/problem+json".to_owned(), content.into());
            }
        }
    }
    document
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut path.get,
        &mut path.post,
        &mut path.patch,
        &mut path.delete,
    ]
    .into_iter()
    .flatten()
}

fn common_errors(operation: &Operation) -> Vec<(&'static str, &'static str)> {
    let takes = |place: ParameterIn| {
        operation
            .parameters
            .iter()
            .flatten()
            .any(|parameter| match parameter {
                RefOr::T(parameter) => parameter.parameter_in == place,
                RefOr::Ref(_) => false,
            })
    };
    let mut errors = Vec::new();
    if operation.security.is_some() {
        errors.push((
            "401",
            "`unauthorized`: no API key, or one that is unknown or has expired.",
        ));
        errors.push(("403", "`insufficient_scope`, or `mailbox_bound_key`."));
        errors.push(("500", "`internal_error`: a fault of popbridge."));
        errors.push(("503", "`database_unavailable`, or `request_timeout`."));
    }
    if takes(ParameterIn::Path) {
        errors.push((
            "404",
            "`not_found`: no such resource, or none that the key may see.",
        ));
    }
    if takes(ParameterIn::Query) {
        errors.push(("400", "`invalid_query`, or `invalid_cursor`."));
    }
    if operation.request_body.is_some() {
        errors.push(("400", "`malformed_json`."));
        errors.push(("413", "`body_too_large`: more than 256 KiB."));
        errors.push(("415", "`unsupported_media_type`: not JSON."));
        errors.push(("422", "`validation_failed`; `errors` has every mistake."));
    }
    errors
}

/// The schema of a body that refuses unknown fields.
pub(super) fn closed(schema: RefOr<Schema>, description: &str) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = schema else {
        return schema;
    };
    object.description = Some(description.trim().to_owned());
    object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    object.into()
}

/// The same for a merge patch: nothing is required, and what is left out stays as it is.
pub(super) fn patch(schema: RefOr<Schema>, description: &str) -> RefOr<Schema> {
    let mut schema = closed(schema, description);
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.required.clear();
        for property in object.properties.values_mut() {
            match property {
                RefOr::Ref(reference) => reference.default = None,
                RefOr::T(Schema::Object(object)) => object.default = None,
                RefOr::T(Schema::Array(array)) => array.default = None,
                RefOr::T(Schema::OneOf(one_of)) => one_of.default = None,
                RefOr::T(_) => {}
            }
        }
    }
    schema
}

/// Names the schemas of a type that is read leniently, so that all mistakes can be told at once.
macro_rules! request_body {
    ($(#[doc = $doc:literal] $name:ident = $schema:ident($body:ty);)*) => {
        $(
            #[doc = $doc]
            pub(super) enum $name {}

            impl utoipa::PartialSchema for $name {
                fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                    let schema = <$body as utoipa::PartialSchema>::schema();
                    $crate::api::document::$schema(schema, $doc)
                }
            }

            impl utoipa::ToSchema for $name {
                fn schemas(
                    schemas: &mut Vec<(
                        String,
                        utoipa::openapi::RefOr<utoipa::openapi::Schema>,
                    )>,
                ) {
                    <$body as utoipa::ToSchema>::schemas(schemas);
                }
            }
        )*
    };
}

pub(super) use request_body;
