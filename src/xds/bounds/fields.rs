//! The bounds, as tables with one row for each field. A test goes through Envoy's descriptors, so that none is forgotten.

/// A message of a request.
#[derive(Debug)]
pub struct Message {
    /// Its fields.
    pub fields: &'static [Field],
}

/// A field, and how much of it is read.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in the proto.
    pub name: &'static str,
    /// How often it may stand in its message.
    pub most: Most,
    /// How many bytes each of it may have.
    pub bytes: usize,
    /// The message that it is, where that is measured too.
    pub message: Option<&'static Message>,
}

/// How often a field may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Most {
    /// This often.
    Times(usize),
    /// For each name that the stream may have.
    Names,
}

/// How many fields all messages within a request may have together, beside its names. An Envoy with all its extensions has about
/// 4,000.
pub const NESTED: usize = 32 << 10;

/// Names of resources. Hosts and the names of objects end at 253 bytes, and a cluster's name has two of them at most.
const NAME: usize = 4096;
/// Words that control planes and proxies make: versions, nonces, type URLs.
const WORD: usize = 1024;
/// An id, or a name with its place.
const ID: usize = 2048;
/// All that a proxy says of itself: 256 kB of annotations, which is what Kubernetes takes, the same of everything else, and room.
const NODE_BYTES: usize = 1 << 20;
const UNBOUNDED: usize = usize::MAX;

/// `envoy.service.discovery.v3.DiscoveryRequest`
pub static REQUEST: Message = Message {
    fields: &[
        text(1, "version_info", WORD),
        one(2, "node", NODE_BYTES, &NODE),
        Field { number: 3, name: "resource_names", most: Most::Names, bytes: NAME, message: None },
        text(4, "type_url", WORD),
        text(5, "response_nonce", WORD),
        // What it says is kept in part.
        one(6, "error_detail", UNBOUNDED, &STATUS),
        many(7, "resource_locators", 64, &LOCATOR),
    ],
};

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`
pub static DELTA_REQUEST: Message = Message {
    fields: &[
        one(1, "node", NODE_BYTES, &NODE),
        text(2, "type_url", WORD),
        Field { number: 3, name: "resource_names_subscribe", most: Most::Names, bytes: NAME, message: None },
        Field { number: 4, name: "resource_names_unsubscribe", most: Most::Names, bytes: NAME, message: None },
        Field { number: 5, name: "initial_resource_versions", most: Most::Names, bytes: NAME + WORD + 8, message: Some(&VERSION) },
        text(6, "response_nonce", WORD),
        one(7, "error_detail", UNBOUNDED, &STATUS),
        many(8, "resource_locators_subscribe", 64, &LOCATOR),
        many(9, "resource_locators_unsubscribe", 64, &LOCATOR),
    ],
};

static VERSION: Message = Message { fields: &[text(1, "key", NAME), text(2, "value", WORD)] };

static LOCATOR: Message = Message { fields: &[text(1, "name", NAME), many(2, "dynamic_parameters", 64, &PARAMETER)] };

static PARAMETER: Message = Message { fields: &[text(1, "key", WORD), text(2, "value", WORD)] };

static STATUS: Message = Message { fields: &[number(1, "code"), text(2, "message", UNBOUNDED), many(3, "details", 16, &ANY)] };

static ANY: Message = Message { fields: &[text(1, "type_url", WORD), text(2, "value", 64 << 10)] };

static NODE: Message = Message {
    fields: &[
        text(1, "id", ID),
        text(2, "cluster", ID),
        one(3, "metadata", NODE_BYTES, &STRUCT),
        one(4, "locality", 4 * WORD, &LOCALITY),
        text(6, "user_agent_name", WORD),
        text(7, "user_agent_version", WORD),
        one(8, "user_agent_build_version", 64 << 10, &BUILD_VERSION),
        // Envoy has about 500.
        many(9, "extensions", 4096, &EXTENSION),
        texts(10, "client_features", 256, WORD),
        many(11, "listening_addresses", 64, &ADDRESS),
        many(12, "dynamic_parameters", 64, &CONTEXT),
    ],
};

static LOCALITY: Message = Message { fields: &[text(1, "region", WORD), text(2, "zone", WORD), text(3, "sub_zone", WORD)] };

static BUILD_VERSION: Message = Message { fields: &[one(1, "version", 64, &SEMANTIC_VERSION), one(2, "metadata", 64 << 10, &STRUCT)] };

static SEMANTIC_VERSION: Message = Message { fields: &[number(1, "major_number"), number(2, "minor_number"), number(3, "patch")] };

static EXTENSION: Message = Message {
    fields: &[
        text(1, "name", WORD),
        text(2, "category", WORD),
        text(3, "type_descriptor", WORD),
        one(4, "version", 64 << 10, &BUILD_VERSION),
        number(5, "disabled"),
        texts(6, "type_urls", 256, WORD),
    ],
};

// Nothing reads what is in it.
static ADDRESS: Message =
    Message { fields: &[text(1, "socket_address", 8192), text(2, "pipe", 8192), text(3, "envoy_internal_address", 8192)] };

static CONTEXT: Message = Message { fields: &[text(1, "key", WORD), one(2, "value", 64 << 10, &CONTEXT_PARAMS)] };

static CONTEXT_PARAMS: Message = Message { fields: &[many(1, "params", 64, &PARAMETER)] };

static STRUCT: Message = Message { fields: &[many(1, "fields", 4096, &STRUCT_FIELD)] };

static STRUCT_FIELD: Message = Message { fields: &[text(1, "key", WORD), one(2, "value", NODE_BYTES, &VALUE)] };

static VALUE: Message = Message {
    fields: &[
        number(1, "null_value"),
        number(2, "number_value"),
        text(3, "string_value", NODE_BYTES),
        number(4, "bool_value"),
        one(5, "struct_value", NODE_BYTES, &STRUCT),
        one(6, "list_value", NODE_BYTES, &LIST),
    ],
};

static LIST: Message = Message { fields: &[many(1, "values", 4096, &VALUE)] };

const fn number(number: u32, name: &'static str) -> Field {
    Field { number, name, most: Most::Times(1), bytes: 0, message: None }
}

const fn text(number: u32, name: &'static str, bytes: usize) -> Field {
    Field { number, name, most: Most::Times(1), bytes, message: None }
}

const fn texts(number: u32, name: &'static str, most: usize, bytes: usize) -> Field {
    Field { number, name, most: Most::Times(most), bytes, message: None }
}

const fn one(number: u32, name: &'static str, bytes: usize, message: &'static Message) -> Field {
    Field { number, name, most: Most::Times(1), bytes, message: Some(message) }
}

const fn many(number: u32, name: &'static str, most: usize, message: &'static Message) -> Field {
    Field { number, name, most: Most::Times(most), bytes: NODE_BYTES, message: Some(message) }
}
