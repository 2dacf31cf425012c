// The reference, and the weights that cases draw: what takes the tests longest, without what finds faults in kernels.
#include "reference.h"

namespace {

double code_of(double x, double off = 2e-4) {
  if (way == 0) return std::nearbyint(x);
  return std::nearbyint(x + off * double(Random(way ^ uint64_t(std::llround(x * 64)) << 20).one()));
}

Doubles rounded(const Doubles& x, Doubles* scales = nullptr) {
  Doubles of(x.size());
  for (size_t begin = 0; begin < x.size(); begin += GROUP) {
    float most = 0;
    for (int i = 0; i < GROUP; i++) most = std::max(most, std::fabs(float(x[begin + i])));
    const float by = most > 1e-30f ? 127.0f / most : 0.0f, d = most > 1e-30f ? most / 127.0f : 0.0f;
    if (scales) scales->push_back(double(d));
    for (int i = 0; i < GROUP; i++) of[begin + i] = code_of(double(float(x[begin + i]) * by)) * double(d);
  }
  return of;
}

}  // namespace

Weights weights(Random& random, int in, int out, int bits, bool bias, int scale_bits) {
  Weights w{in, out, bits, scale_bits, {}, {}, std::vector<double>(size_t(in) * out)};
  const size_t bytes = argosy::block_bytes(bits, scale_bits), width = scale_bits / 8 * TILE;
  w.packed.resize(size_t(out / TILE) * (in / GROUP) * bytes);
  uint8_t* block = w.packed.data();
  for (int tile = 0; tile < out; tile += TILE)
    for (int begin = 0; begin < in; begin += GROUP, block += bytes) {
      uint16_t d[TILE], m[TILE];
      for (int r = 0; r < TILE; r++) d[r] = scale(random, bits == 4 ? 8 : 4), m[r] = scale(random, 11);
      float fine_d[TILE], fine_m[TILE];  // with 32 bits numbers that fp16 has not
      for (int r = 0; r < TILE; r++)
        fine_d[r] = float(half(d[r])) * (scale_bits == 32 ? 1.7f : 1.0f), fine_m[r] = float(half(m[r])) * (scale_bits == 32 ? 0.9f : 1.0f);
      auto put = [&](uint8_t* to, const uint16_t* halves, const float* fine) { std::memcpy(to, scale_bits == 32 ? static_cast<const void*>(fine) : halves, width); };
      put(block + bytes - (bits == 4 ? 2 * width : width), d, fine_d);
      if (bits == 4) put(block + bytes - width, m, fine_m);
      for (int r = 0; r < TILE; r++)
        for (int i = 0; i < GROUP; i++) {
          const int place = i / 8 * 64 + 4 * r + i % 4, high = i / 4 % 2, q = random.below(1 << bits);
          if (bits == 4) block[place] |= uint8_t(q << 4 * high);
          else block[i / 4 * 64 + 4 * r + i % 4] = uint8_t(q);
          w.plain[size_t(begin + i) * out + tile + r] = bits == 4 ? double(fine_d[r]) * q + fine_m[r] : double(fine_d[r]) * (q - 128);
        }
    }
  if (bias) w.bias = numbers(random, out);
  return w;
}

Doubles product(const Weights& w, const Doubles& x, Doubles* size) {
  const Doubles q = rounded(x);
  Doubles of(w.out), sizes(w.out);
  for (int o = 0; !w.bias.empty() && o < w.out; o++) of[o] = double(w.bias[o]), sizes[o] = std::fabs(of[o]);
  for (int i = 0; i < w.in; i++) {  // outputs side by side
    const double *plain = &w.plain[size_t(i) * w.out], by = q[i];
    for (int o = 0; o < w.out; o++) of[o] += plain[o] * by;
    for (int o = 0; size && o < w.out; o++) sizes[o] += std::fabs(plain[o] * by);
  }
  if (size) *size = sizes;
  return of;
}

Doubles normed(const Doubles& x, const Floats& weight, float eps) {
  double squares = 0;
  for (double v : x) squares += v * v;
  const double by = 1 / std::sqrt(squares / double(x.size()) + double(eps));
  Doubles of(x);
  for (size_t i = 0; i < x.size(); i++) of[i] *= by * double(weight[i]);
  return of;
}

std::pair<Floats, Floats> turns(int positions, int half) {
  std::pair<Floats, Floats> of;
  for (int p = 0; p < positions; p++)
    for (int i = 0; i < half; i++) {
      const double t = double((p * (i + 3)) % 17 - 8) / 8;
      of.first.push_back(float((1 - t * t) / (1 + t * t)));
      of.second.push_back(float(2 * t / (1 + t * t)));
    }
  return of;
}

namespace {

// The same of activations of which coarse blocks have twice 8 bits: what the first ones leave is rounded, too.
Doubles product_of_two(const Weights& w, const Doubles& x) {
  Doubles scales, first = rounded(x, &scales), rest = x;
  double mean = 0;
  for (double d : scales) mean += d / double(scales.size());
  for (size_t i = 0; i < x.size(); i++) rest[i] = scales[i / GROUP] < double(argosy::COARSE) * mean ? 0 : rest[i] - first[i];
  first = product(w, x);
  const Doubles second = product(w, rest);
  for (int o = 0; o < w.out; o++) first[o] += second[o] - (w.bias.empty() ? 0.0 : double(w.bias[o]));
  return first;
}

// What a part adds to the rows.
void add(const Shape& s, const Doubles& made, const Floats& norm, Doubles& x) {
  const Doubles of = norm.empty() ? made : normed(made, norm, EPS);
  for (int i = 0; i < s.hidden; i++) x[i] += double(s.residual) * of[i];
}

double activated(int activation, double g) {
  if (activation == argosy::SILU) return g / (1 + std::exp(-g));
  return 0.5 * g * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g)));
}

double to_half_and_back(double x) {
  x = std::clamp(x, -65504.0, 65504.0);
  int exponent;
  std::frexp(x, &exponent);
  const int unit = std::max(exponent - 11, -24);
  return std::ldexp(code_of(std::ldexp(x, -unit), 4e-3), unit);
}

// A head whose channels are spread, by the definition of the matrix: the sign of (i, j) is the parity of what i and j share.
void spread(double* x, int dim) {
  const int size = dim & -dim;
  for (int begin = 0; begin < dim; begin += size) {
    const Doubles given(x + begin, x + begin + size);
    for (int i = 0; i < size; i++) {
      double sum = 0;
      for (int j = 0; j < size; j++) sum += __builtin_parity(unsigned(i & j)) ? -given[j] : given[j];
      x[begin + i] = sum / std::sqrt(double(size));
    }
  }
}

void to_code_and_back(double* x, int dim) {
  double most = 0;
  for (int i = 0; i < dim; i++) most = std::max(most, std::fabs(x[i]));
  const double scale = std::max(most / 127, 1e-30);
  for (int i = 0; i < dim; i++) x[i] = code_of(x[i] / scale) * scale;
}

void norm_queries_and_keys(const Shape& s, const LayerOf& l, Doubles& qkv) {
  auto part = [&](int first, int count, const Floats& norm) {
    const Doubles of = normed(Doubles(qkv.begin() + first, qkv.begin() + first + count), norm, EPS);
    std::copy(of.begin(), of.end(), qkv.begin() + first);
  };
  if (s.qk == 2) part(0, s.width(), l.q_norm), part(s.width(), s.kv_width(), l.k_norm);
  for (int head = 0; s.qk == 1 && head < s.heads + s.kv_heads; head++)
    part(head * s.head_dim, s.head_dim, head < s.heads ? l.q_norm : l.k_norm);
}

}  // namespace

Doubles Sequence::next(Doubles x, bool again) {
  for (size_t i = 0; i < layers.size(); i++) {
    if (again) held[i].pop_back();
    held[i].push_back(queries_keys_values(layers[i], x));
    add(s, product(layers[i].o, heads_of(held[i])), layers[i].post_attn_norm, x);
    feed(layers[i], x);
  }
  return x;
}

Doubles Sequence::queries_keys_values(const LayerOf& l, const Doubles& x) const {
  const int dim = s.head_dim, half = s.rotary / 2;
  const size_t row = held[&l - layers.data()].size();
  Doubles qkv = product_of_two(l.qkv, s.before ? normed(x, l.attn_norm, EPS) : x);
  norm_queries_and_keys(s, l, qkv);
  for (int head = 0; head < s.heads + s.kv_heads; head++)
    for (int i = 0; i < half; i++) {
      double &a = qkv[head * dim + i], &b = qkv[head * dim + half + i];
      const double c = turned.first[row * half + i], t = turned.second[row * half + i], first = a * c - b * t;
      b = b * c + a * t;
      a = first;
    }
  if (s.cache_bits == 16)
    for (size_t i = s.width(); i < qkv.size(); i++) qkv[i] = to_half_and_back(qkv[i]);
  if (s.cache_bits == 8) {
    for (int head = 0; head < s.heads + s.kv_heads; head++) spread(&qkv[head * dim], dim);
    for (size_t i = s.width(); i < qkv.size(); i += dim) to_code_and_back(&qkv[i], dim);
  }
  return qkv;
}

Doubles Sequence::heads_of(const std::vector<Doubles>& all) const {
  const int dim = s.head_dim, row = int(all.size()) - 1, first = s.window ? std::max(0, row - s.window + 1) : 0;
  Doubles heads(s.width());
  for (int head = 0; head < s.heads; head++) {
    const int key = s.width() + head / (s.heads / s.kv_heads) * dim, value = key + s.kv_width();
    Doubles score;
    for (int at = first; at <= row; at++) {
      double sum = 0;
      for (int i = 0; i < dim; i++) sum += all[row][head * dim + i] * all[at][key + i];
      sum *= double(scale_of(s));
      score.push_back(s.softcap != 0 ? double(s.softcap) * std::tanh(sum / double(s.softcap)) : sum);
    }
    const double most = *std::max_element(score.begin(), score.end());
    double total = 0;
    for (double& one : score) total += one = std::exp(one - most);
    for (int at = first; at <= row; at++)
      for (int i = 0; i < dim; i++) heads[head * dim + i] += score[at - first] / total * all[at][value + i];
  }
  return heads;
}

void Sequence::feed(const LayerOf& l, Doubles& x) const {
  const Doubles both = product(l.gate_up, s.before ? normed(x, l.mlp_norm, EPS) : x);
  Doubles gated(s.ffn);
  for (int i = 0; i < s.ffn; i++) gated[i] = activated(s.activation, both[i]) * both[s.ffn + i];
  add(s, product(l.down, gated), l.post_mlp_norm, x);
}
