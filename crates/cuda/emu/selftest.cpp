// Launches the kernels of selftest.cu and checks what they wrote.
//
// In a library it exports ds4_emu_selftest; compiled with -DDS4_EMU_MAIN it is a program.
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

extern "C" int ds4_emu_launch(const char*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void**);
extern "C" const char* ds4_emu_error();
extern "C" int ds4_emu_has(const char*);

namespace {

std::string failures;

void check(bool ok, const std::string& what) {
    if (!ok) failures += what + "\n";
}

struct Shape {
    unsigned x = 1, y = 1, z = 1;
};

template <class... P>
int launch(const char* name, Shape grid, Shape block, unsigned smem, P... parameters) {
    void* args[] = {static_cast<void*>(&parameters)..., nullptr};
    return ds4_emu_launch(name, grid.x, grid.y, grid.z, block.x, block.y, block.z, smem, args);
}

template <class... P>
void run(const char* name, Shape grid, Shape block, unsigned smem, P... parameters) {
    if (launch(name, grid, block, smem, parameters...)) check(false, std::string(name) + ": " + ds4_emu_error());
}

// --- blocks and grids

double block_sum(unsigned n, unsigned blocks) {
    std::vector<float> x(n), out(blocks);
    for (unsigned i = 0; i < n; i++) x[i] = static_cast<float>(i % 7);
    auto start = std::chrono::steady_clock::now();
    run("self_block_sum", {blocks}, {256}, 0, x.data(), out.data(), n / blocks);
    std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - start;
    double sum = 0, want = 0;
    for (float v : out) sum += v;
    for (float v : x) want += v;
    check(sum == want, "self_block_sum: a wrong sum");
    return ms.count();
}

void blocks() {
    block_sum(1u << 16, 64);
    std::vector<float> f(1000, 2.0f);
    run("self_scale", {4}, {256}, 0, f.data(), 1.5f, 1000u);
    bool ok = true;
    for (float v : f) ok &= v == 3.0f;
    check(ok, "self_scale");

    std::vector<int> x(1000);
    for (int i = 0; i < 1000; i++) x[static_cast<size_t>(i)] = i;
    run("self_reverse", {1}, {1000}, 4000, x.data());
    ok = true;
    for (int i = 0; i < 1000; i++) ok &= x[static_cast<size_t>(i)] == 999 - i;
    check(ok, "self_reverse");

    std::vector<int> half(128);
    run("self_early_return", {1}, {256}, 0, half.data());
    ok = true;
    for (int v : half) ok &= v == 128;
    check(ok, "self_early_return");

    std::vector<unsigned> grid(2 * 3 * 4 * 3 * 5 * 7);
    run("self_grid_3d", {2, 3, 4}, {3, 5, 7}, 0, grid.data());
    ok = true;
    for (unsigned i = 0; i < grid.size(); i++) ok &= grid[i] == i;
    check(ok, "self_grid_3d");
}

struct Pair {
    int a;
    alignas(16) float b[4];
};

void parameters_and_votes() {
    std::vector<int> out(33);
    run("self_struct", {1}, {33}, 0, Pair{5, {1, 2, 3, 4}}, out.data(), Pair{100, {6, 7, 8, 9}});
    for (int v : out) check(v == 5 + 4 * 100 + 7, "self_struct");

    std::vector<int> votes(100);
    run("self_votes_of_block", {1}, {100}, 0, votes.data());
    for (int v : votes) check(v == 34 * 4 + 2, "self_votes_of_block");
}

// --- warps

void shuffles() {
    std::vector<int> out(32 * 14);
    run("self_shuffles", {1}, {32}, 0, out.data());
    for (int l = 0; l < 32; l++) {
        int in8 = l % 8, base = l - in8, x9 = l ^ 9;
        int want[14] = {5,
                        base + 3,
                        l < 3 ? l : l - 3,
                        in8 < 3 ? l : l - 3,
                        l > 28 ? l : l + 3,
                        in8 > 4 ? l : l + 3,
                        l ^ 17,
                        x9 > base + 7 ? l : x9,
                        l ^ 1,
                        l ^ 2,
                        static_cast<int>(0x49249249u),
                        2,
                        -16 - 16000 + 1500000,
                        l < 16 ? l ^ 1 : l};
        for (int i = 0; i < 14; i++)
            check(out[static_cast<size_t>(l * 14 + i)] == want[i],
                  "self_shuffles: lane " + std::to_string(l) + ", word " + std::to_string(i));
    }
}

void atomics() {
    std::vector<unsigned> u = {0, 0, UINT_MAX, 0, 0, 0};
    std::vector<float> f(1);
    std::vector<unsigned long long> l(1);
    run("self_atomics", {64}, {128}, 0, u.data(), f.data(), l.data());
    check(u == std::vector<unsigned>{8192u * 8191 / 2, 8191, 0, UINT_MAX, 7, 9}, "self_atomics: unsigned");
    check(f[0] == 8192.0f, "self_atomics: float");
    check(l[0] == 8192ull << 32, "self_atomics: long long");
}

void bits() {
    std::vector<int> out(24);
    run("self_bits", {1}, {1}, 0, out.data());
    int dp_s = 1 * 127 + -2 * -128 + 3 * -1 + -4 * 1 - 5;
    int dp_u = 1 * 127 + 254 * 128 + 3 * 255 + 252 * 1 + 5;
    std::vector<int> want = {dp_s, dp_u, static_cast<int>(0x80448077u), 1121, 0x1e6a2c48, 0x23456789, 0x6789abcd,
                             1 - 1 + 4, 1 - 3 + 8, 24, 0x3555 + 0x4000, 175 - 17500, 0x3f80 * 10 + 2, static_cast<int>(0x80ff00ffu), -4 + 7 + 2 + 32,
                             INT_MAX, INT_MIN, 0, -1, 0x7fff, 0x7fff, 0x7c00, 2, static_cast<int>(0x00ff00ffu)};
    for (size_t i = 0; i < want.size(); i++)
        check(out[i] == want[i], "self_bits: word " + std::to_string(i) + " is " + std::to_string(out[i]) + ", not " +
                                     std::to_string(want[i]));
}

// --- tensor cores

// Of an integer below 2048, exactly.
uint16_t half_bits(int v) {
    unsigned sign = v < 0 ? 0x8000 : 0, m = static_cast<unsigned>(v < 0 ? -v : v), exponent = 25;
    if (!m) return 0;
    for (; m < 1024; m *= 2) exponent--;
    return static_cast<uint16_t>(sign | exponent << 10 | (m & 1023));
}
uint16_t bf16_bits(int v) {
    float f = static_cast<float>(v);
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return static_cast<uint16_t>(bits >> 16);
}
uint32_t tf32_bits(int v) {
    float f = static_cast<float>(v);
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits | 1;  // a digit that must be ignored
}
uint8_t byte_bits(int v) { return static_cast<uint8_t>(v); }
uint8_t e4m3_bits(int v) { return static_cast<uint8_t>(v < 0 ? 128 + 0x30 - v : 0x30 + v); }
double same(int v) { return v; }
double as_u8(int v) { return v & 255; }
// 0x30 is 2^-1; from there on every code is the next eighth of its power of two.
double e4m3_value(int v) {
    int code = 0x30 + (v < 0 ? -v : v), exponent = code / 8;
    double magnitude = (8 + code % 8) / 8.0;
    for (; exponent > 7; exponent--) magnitude *= 2;
    for (; exponent < 7; exponent++) magnitude /= 2;
    return v < 0 ? -magnitude : magnitude;
}

template <class T, class Sum>
void product(const char* name, unsigned k, T (*bits)(int), double (*value)(int) = same) {
    std::vector<int> a(16 * k), b(k * 8);
    unsigned seed = 1;
    for (int& v : a) v = static_cast<int>((seed = seed * 1664525 + 1013904223) >> 24) % 29 - 14;
    for (int& v : b) v = static_cast<int>((seed = seed * 1664525 + 1013904223) >> 24) % 29 - 14;
    std::vector<T> ra, rb;
    for (int v : a) ra.push_back(bits(v));
    for (int v : b) rb.push_back(bits(v));
    std::vector<Sum> out(16 * 8);
    run(name, {1}, {32}, 0, ra.data(), rb.data(), out.data());
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 8; j++) {
            double want = 1;
            for (unsigned n = 0; n < k; n++) want += value(a[i * k + n]) * value(b[n * 8 + j]);
            check(out[i * 8 + j] == want, std::string(name) + ": " + std::to_string(out[i * 8 + j]) + ", not " + std::to_string(want));
        }
}

// Word m of lane l is of the m-th matrix: elements 2(l%4) and the next of row l/4, or of that column.
void ldmatrix_words() {
    std::vector<uint16_t> rows(32 * 8);
    for (size_t i = 0; i < rows.size(); i++) rows[i] = static_cast<uint16_t>(i * 257);
    std::vector<uint32_t> out(32 * 12);
    run("self_ldmatrix_words", {1}, {32}, 0, rows.data(), out.data());
    for (unsigned l = 0; l < 32; l++)
        for (unsigned w = 0; w < 12; w++) {
            bool transposed = w >= 10 || (w >= 4 && w < 8);
            unsigned m = w < 8 ? w % 4 : w % 2, i = l / 4, j = 2 * (l % 4);
            auto at = [&](unsigned row, unsigned column) { return uint32_t{rows[(8 * m + row) * 8 + column]}; };
            uint32_t want = transposed ? at(j, i) | at(j + 1, i) << 16 : at(i, j) | at(i, j + 1) << 16;
            check(out[l * 12 + w] == want, "self_ldmatrix_words: word " + std::to_string(w));
        }
}

void tensor_cores() {
    product<uint16_t, float>("self_mma_f16", 16, half_bits);
    product<uint16_t, float>("self_mma_bf16", 16, bf16_bits);
    product<uint32_t, float>("self_mma_tf32", 8, tf32_bits);
    product<uint8_t, float>("self_mma_e4m3", 32, e4m3_bits, e4m3_value);
    product<uint8_t, int>("self_mma_s8", 32, byte_bits);
    product<uint8_t, int>("self_mma_u8", 32, byte_bits, as_u8);
    product<uint16_t, float>("self_ldmatrix", 16, half_bits);

    ldmatrix_words();
}

// --- errors

template <class... P>
void fails(const char* name, const char* part, Shape grid, Shape block, unsigned smem, P... parameters) {
    if (!launch(name, grid, block, smem, parameters...)) return check(false, std::string(name) + " did not fail");
    std::string error = ds4_emu_error();
    check(error.find(part) != std::string::npos, std::string(name) + ": the error was: " + error);
}

void errors() {
    fails("self_deadlock", "thread (0, 0, 0) waits at __shfl_xor_sync with mask 0xffffffff, where lanes 0xfffffff7 are; "
                           "thread (3, 0, 0) waits at __syncthreads, where 1 of 32 threads are", {1}, {64}, 0);
    fails("self_trap", "kernel self_trap, block (2, 0, 0), thread (5, 0, 0): __trap()", {4}, {64}, 0);
    fails("self_overrun", "past the end of its 32 bytes", {1}, {33}, 32);
    fails("self_missing", "no kernel named self_missing", {1}, {1}, 0);
    fails("self_trap", "more than 1024 threads", {1}, {33, 32}, 0);
    check(ds4_emu_has("self_trap") && !ds4_emu_has("self_missing"), "ds4_emu_has");
    std::vector<int> in = {1, 2, 3, 4, 5, 6, 7, 8}, out(4);
    run("self_missing_wait", {1}, {1}, 0, in.data(), out.data());
    check(out[0] == 1 && out[1] == -1 && out[2] == 5 && out[3] == 0, "self_missing_wait");
    std::vector<int> flag(1);
    run("self_spin", {1}, {64}, 0, flag.data());
    check(flag[0] == 1, "self_spin");
    blocks();  // failures leave nothing behind
}

}  // namespace

// Null if all is well, or one line for each failure.
extern "C" __attribute__((visibility("default"))) const char* ds4_emu_selftest() {
    failures.clear();
    blocks();
    parameters_and_votes();
    shuffles();
    atomics();
    bits();
    tensor_cores();
    errors();
    return failures.empty() ? nullptr : failures.c_str();
}

#ifdef DS4_EMU_MAIN

double best_scale(unsigned n) {
    std::vector<float> x(n, 1.0f);
    auto start = std::chrono::steady_clock::now();
    run("self_scale", {n / 256}, {256}, 0, x.data(), 2.0f, n);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

int main() {
    const char* failed = ds4_emu_selftest();
    printf("%s", failed ? failed : "self-test passed\n");
    for (int i = 0; i < 3; i++) {
        printf("sum of 1Mi floats: 1024 blocks %.2f ms, 64 blocks %.2f ms; ", block_sum(1u << 20, 1024), block_sum(1u << 20, 64));
        printf("scale of 1Mi floats, no waits: %.2f ms\n", best_scale(1u << 20));
    }
    return failed != nullptr;
}

#endif
