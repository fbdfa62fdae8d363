// Views of OpenCV images, without a copy. Header only; the library itself doesn't need OpenCV for it.
//
//   cv::Mat frame = cv::imread("photo.jpg");  // BGR
//   segnets::Mask mask = model.segment(segnets::view(frame));
//   segnets::Mask part = model.segment(segnets::view(frame(cv::Rect(10, 20, 300, 200))));
#pragma once

#include <opencv2/core.hpp>

#include "segnets/error.h"
#include "segnets/image.h"
#include "segnets/model.h"

namespace segnets {

// View a matrix of 8-bit BGR (CV_8UC3), BGRA (CV_8UC4, A is ignored) or gray (CV_8UC1); pass `order` if it holds RGB.
// Rows may have any step, so a region of a matrix is not copied either. The matrix must outlive the view. Throws Error
// for other types.
inline ImageView view(const cv::Mat& matrix, ChannelOrder order = ChannelOrder::bgr) {
  if (matrix.dims > 2 || matrix.depth() != CV_8U ||
      (matrix.channels() != 1 && matrix.channels() != 3 && matrix.channels() != 4))
    throw Error("cv::Mat: expected two dimensions of CV_8UC1, CV_8UC3 or CV_8UC4, got " + std::to_string(matrix.dims) +
                " of " + cv::typeToString(matrix.type()) + "; convert it with cv::cvtColor or convertTo");
  if (matrix.empty()) throw Error("cv::Mat: holds no pixels; was the file found, is the region inside the image?");
  ImageView image{matrix.data, matrix.rows, matrix.cols, static_cast<std::int64_t>(matrix.step[0])};
  image.pixel_stride = matrix.channels();
  if (matrix.channels() == 1) image.channels = 1;
  else image.order = order;
  return image;
}

// Copy a mask to a matrix, CV_8U for up to 256 classes, else CV_16U. Planes become one matrix, stacked
// vertically. Throws Error unless 0 <= index < count.
inline cv::Mat to_mat(const MaskBatch& batch, std::int64_t index = 0) {
  if (index < 0 || index >= batch.count)
    throw Error("mask " + std::to_string(index) + ": the batch has " + std::to_string(batch.count));
  const std::int64_t height = batch.height * (batch.planes > 0 ? batch.planes : 1);
  const auto rows = static_cast<int>(height), columns = static_cast<int>(batch.width);
  const std::int64_t first = index * height * batch.width;
  if (batch.narrow) return cv::Mat(rows, columns, CV_8U, const_cast<std::uint8_t*>(batch.narrow.get() + first)).clone();
  return cv::Mat(rows, columns, CV_16U, const_cast<std::int16_t*>(batch.wide.get() + first)).clone();
}

}  // namespace segnets
