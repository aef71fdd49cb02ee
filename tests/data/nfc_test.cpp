#include "data/nfc.h"

#include <gtest/gtest.h>

namespace conclave::data {
namespace {

TEST(Nfc, ComposesAndOrders) {
  EXPECT_EQ(to_nfc("plain ÿ"), "plain ÿ");
  EXPECT_EQ(to_nfc("e\u0301"), "é");
  EXPECT_EQ(to_nfc("\u212B"), "Å");                     // a single: the Ångström sign
  EXPECT_EQ(to_nfc("\u1E0B\u0323"), "\u1E0D\u0307");    // ḋ + dot below: the lower class composes
  EXPECT_EQ(to_nfc("q\u0307\u0323"), "q\u0323\u0307");  // only put in order
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093C");          // excluded from composition
  EXPECT_EQ(to_nfc("\u0308\u0301"), "\u0308\u0301");    // so is what starts with a mark
  EXPECT_EQ(to_nfc("a\u05AE\u0300\u0315b"), "\u00E0\u05AE\u0315b");
  EXPECT_EQ(to_nfc("a\u0301\u0301"), "\u00E1\u0301");  // the second is blocked
  EXPECT_EQ(to_nfc("\u1100\u1161\u11A8"), "\uAC01");   // Hangul
  EXPECT_EQ(to_nfc("\uAC00\u11A8\u11A8"), "\uAC01\u11A8");
  EXPECT_EQ(to_nfc("\u09C7\u09BE"), "\u09CB");  // two characters of class 0
}

TEST(Nfc, TouchesNothingElse) {
  EXPECT_EQ(to_nfc(""), "");
  EXPECT_EQ(to_nfc("x\u0301"), "x\u0301");
  EXPECT_EQ(to_nfc("\u0301\u0323"), "\u0323\u0301");  // a mark with nothing before it
  EXPECT_EQ(to_nfc("éae\u0301漢e\u0301\u0323字\u0301😀"), "éaé漢ẹ\u0301字\u0301😀");
  EXPECT_EQ(to_nfc("한국어 ㄱ가\u11A8나\u11AB."), "한국어 ㄱ각난.");
}

}  // namespace
}  // namespace conclave::data
