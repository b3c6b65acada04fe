/* Writes one JPEG file with libjpeg, in ways that PIL cannot: any sampling factors, colours, scans and restart intervals.
 *
 *     jpeg_encode RAW WIDTH HEIGHT CHANNELS COLORS QUALITY SCANS RESTART FACTORS OUT
 *
 * COLORS is libjpeg's number of the file's colours, 0 for the usual. SCANS: 0 one with the standard's Huffman tables, 1 progressive,
 * 2 one for each component, 3 one with optimal tables. FACTORS as in 2x2,1x1,1x1. jpegs.py compiles and calls it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

int main(int count, char **words) {
    if (count != 11) return 2;
    int width = atoi(words[2]), height = atoi(words[3]), channels = atoi(words[4]), colors = atoi(words[5]);
    int scans = atoi(words[7]);
    size_t size = (size_t)width * height * channels;
    unsigned char *pixels = malloc(size);
    FILE *raw = fopen(words[1], "rb");
    if (!raw || !pixels || fread(pixels, 1, size, raw) != size) return 2;
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    FILE *out = fopen(words[10], "wb");
    if (!out) return 2;
    jpeg_stdio_dest(&jpeg, out);
    jpeg.image_width = width;
    jpeg.image_height = height;
    jpeg.input_components = channels;
    jpeg.in_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&jpeg);
    if (colors) jpeg_set_colorspace(&jpeg, (J_COLOR_SPACE)colors);
    jpeg_set_quality(&jpeg, atoi(words[6]), FALSE);
    jpeg.restart_interval = atoi(words[8]);
    char *factors = strtok(words[9], ",");
    for (int i = 0; factors && i < jpeg.num_components; i++, factors = strtok(NULL, ","))
        sscanf(factors, "%dx%d", &jpeg.comp_info[i].h_samp_factor, &jpeg.comp_info[i].v_samp_factor);
    static jpeg_scan_info own[4];
    if (scans == 1) jpeg_simple_progression(&jpeg);
    if (scans == 2) {
        for (int i = 0; i < jpeg.num_components; i++)
            own[i] = (jpeg_scan_info){.comps_in_scan = 1, .component_index = {i}, .Ss = 0, .Se = 63};
        jpeg.scan_info = own;
        jpeg.num_scans = jpeg.num_components;
    }
    if (scans == 3) jpeg.optimize_coding = TRUE;
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < jpeg.image_height) {
        JSAMPROW row = pixels + (size_t)jpeg.next_scanline * width * channels;
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    return fclose(out);
}
