"""Every bound that a request, message, queue or cache has, in one table. Each has an error that names its field."""

# --- request fields
MAX_PROMPT_BYTES = 4 * 1024 * 1024
"""UTF-8 bytes of a prompt text or of all chat messages together."""
MAX_TOKENS = 1 << 20
MAX_TEMPERATURE = 100.0
MAX_SEED = (1 << 63) - 1
MAX_VOCAB = 1 << 20
MAX_LOGPROBS = 20
MAX_PROMPT_LOGPROBS_TOKENS = 8192
"""Prompt length up to which prompt_logprobs may be asked for: the answer grows with length x alternatives."""
MAX_LOGPROB_ENTRIES = 65_536
"""Log-probabilities in one answer: tokens x (1 + alternatives), over all choices (of the prompt; and of the generated
tokens where the answer is not streamed)."""
MAX_RETURNED_IDS = 1 << 20
"""Prompt token ids in one answer, over all choices."""
MAX_PROMPT_IDS = 1 << 20
"""Token ids in the prompts of one request."""
MAX_SAMPLING_BYTES = 64 * 1024
"""The JSON text in a `sampling_parameters` tensor."""
MAX_PARAMETERS = 64
"""Parameters of one request of the Open Inference Protocol."""
MAX_DIMENSIONS = 8
"""Numbers in the shape of a tensor."""
MAX_BRACKETS = 1 << 19
"""Opening brackets and braces in one JSON body, in texts or not: each may be an array that takes 20 times its bytes."""
MAX_PARTS = 4096
"""Text parts of all messages of one chat."""
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 256
MAX_STOP_IDS = 64
MAX_BIASES = 300
"""Tokens in `logit_bias`."""
MAX_BIAS = 100.0
MAX_PENALTY = 2.0
"""Presence and frequency penalty, either way."""
MIN_REPETITION_PENALTY = 0.01
MAX_REPETITION_PENALTY = 100.0
MAX_ALLOWED_IDS = 8192
MAX_BAD_WORDS = 128
MAX_BAD_WORD_BYTES = 256
MAX_BAD_WORD_IDS = 32
"""Token ids of one bad word."""
MAX_CONSTRAINT_BYTES = 64 * 1024
"""A schema, pattern, grammar or set of choices."""
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_PROPERTIES = 500
"""Names in one `properties`, `patternProperties` or `$defs`: with twice as many optional ones a mask takes 20 ms."""
MAX_MULTIPLE_OF = 10_000
"""`multipleOf`, in units of its last digit: it becomes an automaton of so many states."""
MAX_MULTIPLES_SUM = 50_000
"""The same of all in one schema: a compilation takes 6 us for each."""
MAX_MULTIPLE_DIGITS = 12
"""Digits after the decimal point of a `multipleOf` that are looked at."""
MAX_CHOICE_TEXTS = 4096
"""Texts that a `choice` has."""
MAX_COMPILING = 64
"""Constraints that wait in a worker to be compiled."""
MAX_GRAMMARS = 128
"""Compiled constraints that a worker keeps, and that a router remembers as sound, of one model."""
MAX_PRIORITY = 10
"""Either way."""
MAX_CHOICES = 8
"""OpenAI's `n`."""
MAX_TOOLS = 128
"""Tools of one chat."""
MAX_DOCUMENTS = 256
"""Documents of one chat."""
MAX_PROMPTS = 64
"""Prompts of one /v1/completions call."""
MAX_INPUTS = 2048
"""Texts of one request for embeddings."""
MAX_EMBEDDING = 1 << 20
"""Numbers of one embedding."""
MAX_MESSAGES = 2048
MAX_REQUEST_ID = 128
MAX_CACHE_SALT = 64
MAX_MODEL_NAME = 317
"""In a request: a served name, and behind a colon an adapter's."""

# --- adapters
MAX_ADAPTERS = 64
"""Of one resource."""
MAX_ADAPTER_NAME = 63
MAX_ADAPTER_RANK = 512
MAX_ADAPTER_CONFIG = 1 << 20
"""Bytes of adapter_config.json."""

# --- messages
MAX_BODY_BYTES = 10 * 1024 * 1024
"""HTTP body."""
MAX_GRPC_MESSAGE = 32 * 1024 * 1024
"""Between routers and workers: large enough for 1 M token ids and for the tokenizer of a 256 k vocabulary."""
MAX_CLIENT_MESSAGE = MAX_BODY_BYTES
"""What a client may send in one gRPC message: it is in memory before it can be counted."""
MAX_METADATA_BYTES = 8 * 1024
MAX_STATE_BYTES = 64 * 1024
"""What is read of a worker's `/state`."""
MAX_ROUTES_BYTES = 64 * 1024 * 1024
"""What is read of a router's `/routes`."""
MAX_MEMBERSHIP_BYTES = 64 * 1024 * 1024
"""A membership file."""
MAX_WATCHED_BYTES = 16 * 1024 * 1024
"""One event of a watch at the API server."""
MAX_CHILD_FRAME = 256 * 1024 * 1024
"""Between the router and its child processes, either way."""

# --- the router: all requests together
MAX_INFLIGHT = 8192
"""Choices that the router carries at once."""
MAX_FLYING = 32
"""Choices of one request that workers are asked for at once; the others follow as these end, so that a request of 512
neither fills the workers' queues nor holds up what other clients wait for."""
MAX_HELD_BYTES = 256 * 1024 * 1024
"""Bytes that requests hold in the router: bodies as they came, prompts as tokens, answers that are collected."""
MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""The same, of one request."""
MAX_CONNECTIONS = 8192
"""HTTP connections to the router."""
MAX_UNSENT_BYTES = 16 * 1024
"""Of an answer that its client does not read: what the system holds, and again what waits for the system, of one HTTP
connection. Left to itself Linux takes 3 to 4 MB, which a router's pod is charged with, before the router hears that
nobody reads. What is on its way to a client that reads does not count."""
MAX_CALLS = 1024
"""gRPC calls of one connection to the router at once."""
MAX_ALL_CALLS = 4096
"""gRPC calls to the router at once, over all connections; more are refused before their message is read."""
MAX_STREAM_REQUESTS = 64
"""Requests of one ModelStreamInfer stream that run at once; more wait in the stream."""
MAX_CHILD_JOBS = 1024
"""Jobs that wait in each lane of a child process."""

# --- tenants
MAX_TENANTS = 10_000
"""Tenants whose use a router keeps count of; of more, the one unused for longest is forgotten."""
MAX_SHOWN_TENANTS = 1_000
"""Tenants that have metrics of their own; all others together are `other`."""
MAX_KEYS = 10_000
"""API keys: more than a Secret can hold."""
MAX_KEY_FILE_BYTES = 4096
MAX_ACCESS_BYTES = 4 * 1024 * 1024
"""The document that says who may ask, and how much."""
MAX_JWKS_BYTES = 256 * 1024
"""An issuer's public keys."""
MAX_JWKS_KEYS = 64
MAX_LINE = 4096
"""Choices of one deployment that wait in the router for their turn."""

# --- queues and caches
MAX_WAITING = 1024
"""Requests that wait in one worker; more are refused with RESOURCE_EXHAUSTED."""
MAX_REPORTED = 256
"""Requests that a worker's report names; those beyond are told as one sum."""
MAX_LOAD_BYTES = 64 * 1024
"""A worker's load as it stands in Redis: room for the MAX_REPORTED, and more."""
MAX_STREAM_CHUNKS = 8192
"""Chunks buffered for one slow reader before its request is aborted."""
MAX_MESSAGE_INTERVAL_MS = 1000
"""For which a router may have tokens of a stream wait for each other."""
MAX_SUBSCRIBERS = 64
"""Streams of KV events that a worker serves at a time: one for each router that has no Redis."""
MAX_SESSIONS = 256
"""Streams of calls that a worker has at a time: one for each router."""
MAX_TRANSFERS = 4
"""Workers that a worker sends blocks to at a time; and as many it fetches from."""
MAX_TRANSFER_BLOCKS = 1 << 16
"""Blocks in one transfer: their ids are 1 MiB."""
MAX_TRANSFER_BYTES = 4 * 1024 * 1024 * 1024
"""Content of the blocks in one transfer; what is beyond is computed."""
TRANSFER_PART_BYTES = 1024 * 1024
"""Of a block's content in one message."""
TRANSFER_WINDOW_BYTES = 32 * 1024 * 1024
"""Of one transfer's blocks, that either engine is asked to copy at once: it copies between steps, so what one pause can
take must be asked for before."""
TRANSFER_WINDOW_BLOCKS = 256
"""The same in blocks, where these are small."""
TRANSFER_S = 30.0
"""Seconds that one transfer takes at most."""
MAX_ADDRESS = 255
"""Characters of a worker's address in a request."""
MAX_WORKER_BLOCKS = 1_500_000
"""Blocks of one worker's KV cache: a snapshot of them fits a MAX_GRPC_MESSAGE."""
MAX_PROMISED_BLOCKS = 1_000_000
"""Blocks of one deployment that a router expects to be computed; beyond it siblings may scatter."""
MAX_QUARANTINED = 1024
"""Prompts of one deployment of which two workers died, that a router remembers."""
MAX_REMEMBERED_PROMPTS = 1024
"""Of one worker, those computed since its last report; beyond it a router takes the line for longer than it is."""
MAX_EVENT_BACKLOG = 10_000
"""KV event batches that wait for Redis; beyond it the oldest are dropped and the gap shows in `seq`."""
EVENT_STREAM_LENGTH = 10_000
"""MAXLEN ~ of a worker's event stream."""
MAX_REDIS_REPLY = 32 * 1024 * 1024
"""Bytes that a router reads of one answer: snapshots of a million blocks and more fit."""
MAX_CHAT_TEMPLATE_BYTES = 256 * 1024
MAX_RENDERED_CHAT_BYTES = 8 * 1024 * 1024

# --- speculation
MAX_DRAFT = 16
"""Tokens that are guessed ahead for one request in one step."""
MAX_PIPELINE = 16
"""Processes that share one model."""
MAX_GROUP_CONNECTIONS = 4 * MAX_PIPELINE
"""To rank 0 of a group at a time; one for each other rank is of use."""
MAX_GROUP_MESSAGE = 64 * 1024
"""Bytes of one line of what the processes of a group tell each other beside their steps."""
MAX_SEARCHED_TOKENS = 16_384
"""Last tokens of a request in which a guess looks for what came before."""
MAX_RECENT_TOKENS = 8_192
"""Lately generated tokens that a guess may draw on, of one tenant (cache salt). Twice as many are kept at most."""
MAX_RECENT_TENANTS = 32
"""Tenants whose generated tokens are kept for that; the one unused for longest goes."""

# --- step traces
MAX_TRACED_STEPS = 8192
"""Steps that a worker's trace keeps in memory."""
MAX_TRACED_SLICES = 65_536
"""Slices of all these steps together."""
MAX_TRACE_BYTES = 64 * 1024 * 1024
"""A trace as it is sent, and a trace file before it turns over; one former file is kept."""

# --- autoscaling
MAX_SCALING_METRICS = 5
"""Metrics of one resource: each type once."""
MAX_SCHEDULES = 16
"""Times of the week of one resource."""
MAX_HELD_REQUESTS = 1024
"""Requests of one deployment that wait in a router for its first worker."""
MAX_SCALING_DECISIONS = 5
"""Decisions in the status of one resource, the latest ones."""

# --- what the operator writes
MAX_CONDITION_MESSAGE = 4096
"""Characters; the API server takes 32,768."""
MAX_EVENT_MESSAGE = 1000
"""Characters; the API server takes 1,024 bytes of the newer events API."""

# --- model files
MAX_TOKENIZER_BYTES = MAX_GRPC_MESSAGE - 2 * 1024 * 1024
"""A tokenizer's document: it travels in one message with the chat template and the rest of a model's description."""
MAX_KEPT_TEXT_BYTES = 256 * 1024 * 1024
"""Tokenizers, templates and vocabularies that a router keeps, of all models together."""
MAX_GGUF_METADATA = 1 << 16
MAX_GGUF_TENSORS = 1 << 16
MAX_GGUF_STRING = 64 * 1024 * 1024
MAX_GGUF_ARRAY = 1 << 24
MAX_SAFETENSORS_HEADER = 100 * 1024 * 1024
MAX_REMOTE_HEADER = 32 * 1024 * 1024
"""Bytes that are moved for the header of a remote model: the largest vocabularies make GGUF headers of about 16 MiB."""
REMOTE_CHUNK = 256 * 1024
"""Bytes of one range request."""
MAX_REMOTE_REDIRECTS = 5
REMOTE_HEADER_S = 60.0
"""Seconds that reading a remote header takes at most."""
