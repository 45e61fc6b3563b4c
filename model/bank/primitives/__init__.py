"""Operations below the bank's formulas: sums by segment, the K largest, sums and unions over ranks."""
