// The interface between the worker and its native kernels: plain structs and pointers, no torch, no Python.
//
// All matrices are row-major. Blocks of 32 inputs share a scale: the weights' and the activations'. A row's result is
// made by the same operations in the same order whatever rows it is computed with, so its bits do not depend on them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace argosy {

constexpr int GROUP = 32;  // inputs that share a scale
constexpr int TILE = 16;   // outputs that are computed side by side, and positions that are attended to together
constexpr int ROWS = 8;    // rows whose activations lie side by side
constexpr float COARSE = 1.3f;  // blocks of activations whose scale is so many times the mean of their row's are coarse
constexpr int CHOICES = 64;  // tokens whose logits are looked at together

// Weights of a linear, packed by tiles of 16 outputs: for each block of 32 inputs
//   4 bits: 256 bytes of nibbles, then 16 scales d, then 16 minima m   w = d q + m, q in 0..15
//   8 bits: 512 bytes, then 16 scales d                                w = d (q - 128), q in 0..255
// Scales and minima are fp16, or fp32 with 4 bits where a checkpoint has finer ones (Q4_K: products of 11 and 6 bits).
// In the 64 bytes of four inputs, byte 4 r + i is that of output r and input i. With 4 bits the low halves of 64 bytes are
// inputs 8 j .. 8 j + 3 and the high halves 8 j + 4 .. 8 j + 7; with 8 bits the former lie before the latter.
struct Linear {
  const uint8_t* data;
  const float* bias;  // [out], or null
  int32_t in, out;    // multiples of GROUP and of TILE
  int32_t bits;       // 4 or 8
  int32_t scale_bits; // 16, or 32 with 4 bits
};

inline size_t block_bytes(int bits, int scale_bits) { return bits == 4 ? 256 + 4 * scale_bits : 512 + 2 * scale_bits; }
// `rows` rows of blocks as ggml has them, Q4_1 (d, m, 16 bytes of nibbles; also with fp32 d and m) or Q8_0 (d, 32 bytes), to
// where the outputs from `first` on belong in packed weights.
void pack(int bits, int scale_bits, const uint8_t* from, int rows, int blocks, int first, uint8_t* to);

inline size_t tile_bytes(const Linear& w) { return size_t(w.in / GROUP) * block_bytes(w.bits, w.scale_bits); }

// Rows of activations in 8 bits: q = round(x / d), d = max |x| / 127 of each block. ROWS rows lie side by side, so that a
// kernel that computes them together walks through memory in one direction: [rows / ROWS, in / GROUP, ROWS], and q has
// GROUP numbers in each place.
struct Quantized {
  int8_t* q;
  float* d;
  float* sum;    // d times the sum of q
  int32_t* raw;  // -128 times the sum of q: what the offset of 8-bit weights adds

  static size_t place(int row, int block, int blocks) {
    return (size_t(row / ROWS) * blocks + block) * ROWS + row % ROWS;
  }
  Quantized from(size_t place) const { return {q + place * GROUP, d + place, sum + place, raw + place}; }
};

// What an adapter adds to a linear: up (down x), for each part of the linear that follows another in its outputs (q, k and v;
// gate and up) with rows of `down` of its own, or shared ones. All fp32.
struct LowRank {
  const float* down;   // [rank, in]
  const float* up[3];  // [ranks[i], outputs of the part]; null where nothing is added to it
  int32_t rank;        // 0: nothing is added
  int32_t first[3], ranks[3];  // which rows of `down` a part has
};
enum Adapted { QKV, O, GATE_UP, DOWN, LINEARS };

// Where the rows of a step lie; arrays as in core/layout.py.
struct Step {
  int32_t rows, slices;
  const int32_t* positions;     // [rows]
  const int32_t* cu_rows;       // [slices + 1]
  const int32_t* context_lens;  // [slices]
  const int32_t* block_table;   // [slices, table_width]
  const int32_t* slots;         // [rows]
  int32_t table_width, block_size;
  int32_t most_rank;               // of the adapters
  const int32_t* adapter_of;       // [rows]: which of them a row has, or -1; null where no row has any
  const LowRank* const* adapters;  // of each: [layers, LINEARS]
  const int32_t* turns;  // [rows]: which row of the cosines and sines a row has; null: those of its own number
  // Of layers that ranks share: this rank's columns of `what` and those of the others, side by side to `all`; not 0 where
  // another rank is gone. Called by one thread. Null where layers are whole.
  int32_t (*join)(int32_t layer, int32_t what, const void* mine, void* all);
};
// What ranks join: fp32 [rows, their columns], of the gated part BLOCK_RECORD bytes for each ROWS rows and block.
enum Joined { HEADS, OF_O, GATED, OF_DOWN };
constexpr int BLOCK_RECORD = ROWS * (GROUP + 12);

// What stands before the layers of a model, and behind them.
struct Ends {
  const uint8_t* embedding;  // [vocab, hidden / GROUP] blocks as ggml has them in Q8_0; null: the rows are there already
  float factor;              // of what is looked up
  Linear head;
  const float* norm;         // [hidden]
  float eps;
};
// Rows of an embedding, [rows, hidden].
void look_up(const Ends& ends, int hidden, const int32_t* tokens, int rows, float* x);

enum Activation { SILU, GELU };  // x sigmoid(x); x Phi(x), by tanh

// One decoder layer: attention with rotary positions over a paged cache, and a gated feed-forward part. Of one that ranks
// share, heads and ffn are those of this rank, o and down have the inputs of all and some of the outputs. Norms (RMSNorm) may
// be on what goes into a part, on what it adds, and on queries and keys before they are turned; null where there is none.
struct Layer {
  Linear qkv, o, gate_up, down;
  const float *attn_norm, *mlp_norm;            // [hidden]
  const float *post_attn_norm, *post_mlp_norm;  // [hidden]
  const float *q_norm, *k_norm;  // [head_dim]: of each head; or, `together`, [heads, head_dim] and [kv_heads, head_dim]
  // fp32, fp16 or int8 [blocks, 2, kv_heads, block_size, head_dim], where TILE keys that follow one another lie as
  // [head_dim, TILE]: all their products with a query are then made side by side.
  void* cache;
  float* scales;  // of int8: of each row of keys or values, [blocks, 2, kv_heads, block_size]
  int32_t hidden, heads, kv_heads, head_dim, ffn, rotary;
  int32_t window;      // positions that a row sees, or 0 for all
  int32_t cache_bits;  // 32, 16 or 8
  int32_t activation;  // of the gate
  int32_t together;    // whether all queries have one norm, and all keys another
  float eps, scale;
  float softcap;   // bound of the scores: c tanh(s / c); 0 for none
  float residual;  // factor of what each part adds
};

// How a token is drawn from its logits: sampling/draw.py says it in torch.
struct Draw {
  double temperature;  // 0: the highest logit, the lowest id among equals
  double least;        // natural log of min-p; minus infinity for none
  double top_p;        // 1 for all
  double u;            // in [0, 1)
  int32_t top_k;       // 0 for all
  const uint8_t* open; // a bit for each token, the lowest first: 0 where it may not be drawn; null where all may
};

struct Candidate {
  float below;  // its logit less the highest one
  int32_t id;
};

// Room for a row of n logits: `highest`, `bounds` and `sums` for each CHOICES of them, `found` for each, and `open` too where
// a draw has bits.
struct Candidates {
  float *highest, *bounds;
  double* sums;
  Candidate* found;
  float* open;
};

// The k + 1-th highest of n numbers; changes their order.
float highest_but(float* numbers, int n, int k);
// Brings the `wanted` likeliest of `count` to the front, in order, the lowest id first among equals.
void likeliest_first(Candidate* of, int wanted, int count);

// What the instruction sets have to offer. One table for each, filled by kernels.inc.
struct Kernels {
  const char* name;
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
  // a row, or whole blocks of it, to where its first block belongs
  void (*quantize)(const float* x, int n, Quantized to);
  // what is left of a row that was quantized to `held`, x - q d: of its coarse blocks; of the others nothing
  void (*quantize_rest)(const float* x, int n, Quantized held, Quantized to);
  // `tiles` tiles from `tile` on, for all rows: out[row * stride + i], i from 0 to TILE * tiles - 1
  void (*linear)(const Linear& w, const Quantized& x, int rows, int tile, int tiles, float* out, size_t stride);
  // the same added to what is there; where the rows that are computed together have no block but zeros, at no cost
  void (*linear_more)(const Linear& w, const Quantized& x, int rows, int tile, int tiles, float* out, size_t stride);
  void (*rotate)(float* x, const float* cos, const float* sin, int half);
  void (*add)(float* x, const float* y, int n);
  // GROUP numbers of a gate, then GROUP of what it lets through, for each row: quantized as the block `block` of `blocks`
  void (*gate)(const float* both, int rows, int block, int blocks, int activation, Quantized to);
  void (*held)(int n, Quantized from, float* out);  // what a row was quantized to: q d
  void (*narrow)(const float* down, int rank, const float* x, int n, float* out);  // down [rank, n] x -> out [rank]
  // out += t up, where a row of `up` lies `stride` behind the one before
  void (*widen)(const float* up, size_t stride, int rank, const float* t, int n, float* out);
  void (*halve)(const float* x, int n, uint16_t* out);  // to fp16; what is too large becomes the largest
  // Keys that are held in 8 bits, and the queries that meet them: large channels are spread over all (kv_types.py)
  void (*spread)(float* x, int dim);
  float (*code)(const float* x, int n, int8_t* out);  // to 8 bits; their scale
  // one kv head of the rows `first` .. `last` of a slice: queries [rows, heads, head_dim] in and out; `scratch` has
  // TILE + 1 numbers for each query
  void (*attend)(const Layer& layer, const Step& step, int slice, int first, int last, int kv_head, const float* q,
                 size_t q_stride, float* out, size_t out_stride, float* scratch);
  bool (*healthy)(const float* row, int n);  // whether all are finite
  int (*pick)(const float* row, int n, const Draw& draw, Candidates room);  // a token for a healthy row of n logits
};

#if defined(__x86_64__)
const Kernels* avx512_vnni();  // null where the processor lacks it
const Kernels* avx_vnni();
const Kernels* avx2();
#elif defined(__aarch64__)
const Kernels* neon_i8mm();
const Kernels* neon_dotprod();
#endif
const Kernels* portable();

}  // namespace argosy
