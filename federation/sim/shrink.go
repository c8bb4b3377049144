package sim

// Shrink returns a part of the faults that still fails in the same way, by the test's judgement, and of which no single
// fault can be left out. It calls fails at most tries times, so that it may end before that is so. After Zeller's delta
// debugging: leave out ever smaller pieces.
func Shrink(faults []Fault, tries int, fails func([]Fault) bool) []Fault {
	test := func(part []Fault) bool {
		tries--
		return tries >= 0 && fails(part)
	}
	for size := (len(faults) + 1) / 2; size > 0 && tries > 0; {
		smaller := false
		for from := 0; from < len(faults) && tries > 0; {
			to := min(from+size, len(faults))
			part := append(append([]Fault{}, faults[:from]...), faults[to:]...)
			if test(part) {
				faults, smaller = part, true
			} else {
				from = to
			}
		}
		switch {
		case size > 1:
			size /= 2
		case !smaller:
			return faults
		}
	}
	return faults
}
