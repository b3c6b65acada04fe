// What surrounds the convolutions of a detector: the canvas of a picture, the boxes pooled from a map, probabilities.
//
// | kernel | result | grid, block |
// | --- | --- | --- |
// | canvas | out [pixels][3], blue first: the picture scaled bilinearly, less the means; zeros beyond it | FLAT(pixels) |
// | roi_align | pooled [boxes][channels][bins * bins] of the boxes that are listed: means of samples * samples bilinear samples | (count, ceil(channels / 64), 1), 256 |
// | softmax | x [rows][columns] in place, in each row | ROWS(rows) |
//
// A map has its channels last.

// Between which two lines (or columns) of the picture a line of the canvas is, and the weight of the second.
struct Between {
    unsigned first, second;
    float weight;
};

extern "C" __global__ void __launch_bounds__(256)
canvas(float *out, const unsigned char *rgb, const Between *lines, const Between *columns, unsigned picture_width, unsigned scaled_height,
       unsigned scaled_width, unsigned width, unsigned pixels, float blue, float green, float red) {
    for (size_t i = blockIdx.x * 256u + threadIdx.x; i < pixels; i += gridDim.x * 256u) {
        unsigned y = (unsigned)i / width, x = (unsigned)i - y * width;
        bool is_there = y < scaled_height && x < scaled_width;
        Between line = {}, column = {};
        if (is_there) line = lines[y], column = columns[x];
#pragma unroll
        for (unsigned channel = 0; channel < 3; channel++) {
            float mean = channel == 0 ? blue : channel == 1 ? green : red;
            auto at = [=](unsigned row, unsigned place) {
                return (float)rgb[3 * ((size_t)row * picture_width + place) + 2 - channel] - mean;
            };
            float value = 0.0f;
            if (is_there) {
                float upper = at(line.first, column.first) * (1.0f - column.weight) + at(line.first, column.second) * column.weight;
                float lower = at(line.second, column.first) * (1.0f - column.weight) + at(line.second, column.second) * column.weight;
                value = upper * (1.0f - line.weight) + lower * line.weight;
            }
            out[3 * i + channel] = value;
        }
    }
}

// A box x1, y1, x2, y2 in pixels of the canvas, and its row of the result.
struct Box {
    float corners[4];
    unsigned row;
};

// The neighbours of a sample along one direction: weights 0 outside (-1, size), clamped to the edge else; as in `nn/roi_align.rs`.
__device__ __forceinline__ Between neighbours(float at, unsigned size, float &first_weight) {
    if (!(at >= -1.0f && at <= (float)size)) {
        first_weight = 0.0f;
        return {0, 0, 0.0f};
    }
    at = fmaxf(at, 0.0f);
    unsigned low = (unsigned)at;
    if (low + 1 >= size) {
        first_weight = 1.0f;
        return {size - 1, size - 1, 0.0f};
    }
    float part = at - (float)low;
    first_weight = 1.0f - part;
    return {low, low + 1, part};
}

#define CHANNELS 64u     // of a block
#define BINS 32u         // that are pooled before they are written: then next to each other

extern "C" __global__ void __launch_bounds__(256)
roi_align(float *pooled, const float *map, const Box *boxes, unsigned height, unsigned width, unsigned channels, unsigned bins,
          unsigned samples, float scale) {
    __shared__ float tile[CHANNELS][BINS + 1];
    const Box box = boxes[blockIdx.x];
    const unsigned first = blockIdx.y * CHANNELS, mine = threadIdx.x % CHANNELS, all = bins * bins;
    float low_x = box.corners[0] * scale, low_y = box.corners[1] * scale;
    float bin_x = fmaxf(box.corners[2] * scale - low_x, 1.0f) / (float)bins, bin_y = fmaxf(box.corners[3] * scale - low_y, 1.0f) / (float)bins;
    float share = 1.0f / (float)(samples * samples);
    for (unsigned begin = 0; begin < all; begin += BINS) {
        for (unsigned bin = threadIdx.x / CHANNELS; bin < BINS && begin + bin < all; bin += 256 / CHANNELS) {
            unsigned row = (begin + bin) / bins, column = (begin + bin) % bins;
            float sum = 0.0f;
            for (unsigned i = 0; i < samples; i++) {
                float top_weight;
                Between y = neighbours(low_y + bin_y * ((float)row + ((float)i + 0.5f) / (float)samples), height, top_weight);
                for (unsigned j = 0; j < samples && first + mine < channels; j++) {
                    float left_weight;
                    Between x = neighbours(low_x + bin_x * ((float)column + ((float)j + 0.5f) / (float)samples), width, left_weight);
                    const float *from = map + first + mine;
                    sum += share * top_weight * left_weight * from[((size_t)y.first * width + x.first) * channels];
                    sum += share * top_weight * x.weight * from[((size_t)y.first * width + x.second) * channels];
                    sum += share * y.weight * left_weight * from[((size_t)y.second * width + x.first) * channels];
                    sum += share * y.weight * x.weight * from[((size_t)y.second * width + x.second) * channels];
                }
            }
            tile[mine][bin] = sum;
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < CHANNELS * BINS; i += 256) {
            unsigned channel = i / BINS, bin = i % BINS;
            if (first + channel < channels && begin + bin < all)
                pooled[((size_t)box.row * channels + first + channel) * all + begin + bin] = tile[channel][bin];
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(128) softmax(float *x, unsigned rows, unsigned columns) {
    size_t row = blockIdx.x * 4u + threadIdx.x / WARP;
    unsigned lane = threadIdx.x % WARP;
    if (row >= rows) return;
    x += row * columns;
    float greatest = -INFINITY, sum = 0.0f;
    for (unsigned i = lane; i < columns; i += WARP) greatest = fmaxf(greatest, x[i]);
    greatest = warp_max(greatest);
    for (unsigned i = lane; i < columns; i += WARP) {
        float value = expf(x[i] - greatest);
        x[i] = value;
        sum += value;
    }
    float scale = 1.0f / warp_sum(sum);
    for (unsigned i = lane; i < columns; i += WARP) x[i] *= scale;
}
